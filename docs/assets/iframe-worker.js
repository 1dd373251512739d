// Browsers start no Worker for a page that was opened from a folder. The search of this site runs in one, so here its script
// runs in a hidden frame instead, behind the two things of a Worker that the search uses: postMessage and "message" events.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve) => frame.addEventListener("load", () => resolve(frame.contentWindow), { once: true }));
      window.workerAnswered = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc = "<script>var postMessage = (data) => parent.workerAnswered(data)<\/script>" +
        `<script src="${new URL(url, location.href)}"><\/script>`;
      document.documentElement.append(frame);
    }

    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
