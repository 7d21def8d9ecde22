// Hydrogen, a Matrix web client, as its package offers it; the homeserver is named in the address: ?homeserver=http://…

import { Platform, createNavigation, createRouter, RootViewModel, FeatureSet } from "hydrogen-view-sdk";
import downloadSandbox from "hydrogen-view-sdk/download-sandbox.html?url";
import worker from "hydrogen-view-sdk/main.js?url";
import wasm from "@matrix-org/olm/olm.wasm?url";
import wasmBundle from "@matrix-org/olm/olm.js?url";
import legacyBundle from "@matrix-org/olm/olm_legacy.js?url";
import "hydrogen-view-sdk/assets/theme-element-light.css";

const platform = new Platform({
  container: document.querySelector("#app"),
  config: { defaultHomeServer: new URLSearchParams(location.search).get("homeserver") },
  options: { development: false },
  assetPaths: {
    downloadSandbox,
    worker,
    olm: { wasm, wasmBundle, legacyBundle },
    serviceWorker: "sw.js",
  },
});
const navigation = createNavigation();
platform.setNavigation(navigation);
await platform.init();
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const vm = new RootViewModel({ platform, urlRouter, navigation, features });
await vm.load();
platform.createAndMountRootView(vm);
