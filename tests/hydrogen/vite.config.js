export default { base: "./", build: { target: "esnext" }, logLevel: "warn" };
