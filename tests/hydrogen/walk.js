// Walks a browser through one part of the scene, taking pictures at the width of a desk and of a phone.
//
// One JSON object on stdin says what to do; see `scene.rs` for its keys. Each picture's path is printed.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import puppeteer from "puppeteer-core";

const SIZES = { desktop: { width: 1200, height: 860 }, phone: { width: 390, height: 844 } };
const TYPES = {
  ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm",
  ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".json": "application/json",
};
const PATIENCE = 60_000;

const task = JSON.parse(await readFile("/dev/stdin", "utf8"));
const browser = await puppeteer.launch({
  executablePath: task.chromium,
  args: ["--no-sandbox", "--force-device-scale-factor=1", "--lang=en", "--hide-scrollbars"],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  await page.setViewport(SIZES.desktop);
  await { login, client, gitter }[task.walk](page);
} finally {
  await browser.close();
}
process.exit(0);

/** Takes a picture at each width; `ready` is called after each change of width. */
async function shoot(page, name, { tall = 0, ready = async () => {} } = {}) {
  // What the mouse points at looks different.
  await page.mouse.move(0, 0);
  for (const [width, size] of Object.entries(SIZES)) {
    await page.setViewport({ ...size, height: tall || size.height });
    await ready();
    // Two frames: laid out and painted.
    await page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))));
    const path = join(task.out, `${name}-${width}.png`);
    await page.screenshot({ path });
    console.log(path);
  }
  await page.setViewport(SIZES.desktop);
}

/** The bridge's login pages, as somebody sees them who follows the bot's link. */
async function login(page) {
  await page.goto(task.home);
  await shoot(page, "login-index");
  await page.goto(new URL("/no-such-page", task.home).href);
  await shoot(page, "login-problem");
  await page.goto(task.link);
  await shoot(page, "login-confirm");
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  await shoot(page, "login-confirm-dark");
  await page.emulateMediaFeatures([]);
  await submit(page, "main form button");
  await submit(page, `button[name=user][value="${task.gitterUser}"]`);
  await submit(page, "#allow");
  if (!page.url().startsWith(task.home)) throw new Error(`the login ended at ${page.url()}`);
  await shoot(page, "login-success");
}

async function submit(page, selector) {
  const button = await page.waitForSelector(selector);
  await Promise.all([page.waitForNavigation(), button.click()]);
}

/** The rooms, in Hydrogen. */
async function client(page) {
  const server = createServer(async (request, answer) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
    try {
      const file = await readFile(join(task.app, path.endsWith("/") ? "index.html" : path));
      answer.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/html" }).end(file);
    } catch {
      answer.writeHead(404).end();
    }
  });
  await new Promise(done => server.listen(0, "127.0.0.1", done));
  const home = `http://127.0.0.1:${server.address().port}/?homeserver=${encodeURIComponent(task.homeserver)}`;
  page.on("pageerror", error => console.error(`Hydrogen: ${error}`));
  await page.goto(home);
  await page.waitForSelector("#username");
  await shoot(page, "hydrogen-login");
  await page.type("#username", task.user);
  await page.type("#password", task.password);
  await page.click("button[type=submit]");
  await page.waitForSelector(".RoomList a");
  for (const room of task.rooms) {
    await page.waitForFunction(
      id => [...document.querySelectorAll(".RoomList a")].some(link => decodeURIComponent(link.href).endsWith(id)),
      {}, room.id,
    );
    await page.evaluate(id => {
      [...document.querySelectorAll(".RoomList a")].find(link => decodeURIComponent(link.href).endsWith(id)).click();
    }, room.id);
    await page.waitForSelector("textarea");
    // Hydrogen fills a timeline from the newest message upwards; the picture waits for the one the scene names.
    const shown = () => page.waitForFunction(
      text => document.querySelector(".Timeline")?.innerText.includes(text), {}, room.until,
    );
    const settled = async () => {
      await shown();
      // The hole above what was synced is filled when it comes into view; a picture of its spinner is better than none.
      await page.waitForFunction(() => !document.querySelector(".GapView"), { timeout: 8000 }).catch(() => {});
    };
    await shown();
    await shoot(page, room.name, { ready: shown });
    await shoot(page, `${room.name}-whole`, { tall: room.tall, ready: settled });
    await shoot(page, `${room.name}-start`, {
      ready: () => page.evaluate(async text => {
        const lines = [...document.querySelectorAll(".Timeline li")];
        // Twice: what lies outside of the view is laid out only when it comes near.
        for (let round = 0; round < 2; round += 1) {
          lines.find(line => line.innerText.includes(text))?.scrollIntoView({ block: "start" });
          document.querySelector(".Timeline_scroller")?.scrollBy(0, -60);
          await new Promise(done => setTimeout(done, 300));
        }
      }, room.from),
    });
  }
}

/** The same conversation on Gitter's side. */
async function gitter(page) {
  await page.goto(task.web);
  const rooms = await page.waitForSelector("#rooms button");
  await rooms.click();
  await page.waitForFunction(text => document.body.innerText.includes(text), {}, task.until);
  const size = { ...SIZES.desktop, height: task.tall };
  await page.setViewport(size);
  const path = join(task.out, "gitter.png");
  await page.screenshot({ path });
  console.log(path);
}
