// A page and its WebSockets in a real Chromium. Arguments: the page's URL, and the
// address that its host is at. Prints what it saw as JSON, or fails with the reason.
const { chromium } = require("playwright-core");

const [url, address] = process.argv.slice(2);
const host = new URL(url).hostname;

(async () => {
  const browser = await chromium.launch({
    executablePath: process.env.PIPEOPS_TEST_CHROMIUM,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
      "--no-proxy-server",
      // No name is looked up, and nothing but this leads anywhere.
      `--host-resolver-rules=MAP ${host} ${address}, MAP * ~NOTFOUND`,
    ],
  });
  try {
    const page = await browser.newPage();
    await page.goto(url);
    const title = await page.title();
    const seen = await page.evaluate(inThePage);
    console.log(JSON.stringify({ title, ...seen }));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Runs in the page. Text and binary come back as they were sent and in their order.
async function inThePage() {
  const open = () =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${location.host}/echo`, ["other.v1", "echo.v1"]);
      socket.binaryType = "arraybuffer";
      socket.heard = [];
      socket.closed = new Promise((end) => {
        socket.onclose = ({ code, reason, wasClean }) => end({ code, reason, wasClean });
      });
      socket.onmessage = ({ data }) => socket.heard.push(data);
      socket.onopen = () => resolve(socket);
      socket.onerror = () => reject(new Error("no WebSocket"));
    });
  const bytes = (length) => Uint8Array.from({ length }, (_, n) => (n * 31 + (n >> 8)) & 255);
  const same = (a, b) =>
    typeof a === typeof b &&
    (typeof a === "string" ? a === b : indexedDB.cmp(a, b.buffer) === 0);

  const socket = await open();
  const sent = ["Grüße", "", bytes(1000), bytes(0), "ü".repeat(1 << 19), bytes(1 << 20)];
  for (let n = 0; n < 100; n++) sent.push(`number ${n}`);
  sent.forEach((message) => socket.send(message));
  while (socket.heard.length < sent.length) {
    await new Promise((next) => socket.addEventListener("message", next, { once: true }));
  }
  const equal = sent.filter((message, n) => same(socket.heard[n], message)).length;
  socket.close(4001, "the browser leaves");

  // What the service does at this word, see main.rs.
  const told = await open();
  told.send("please close");
  const cut = await open();
  cut.send("please vanish");

  return {
    protocol: socket.protocol,
    sent: sent.length,
    equal,
    by_browser: await socket.closed,
    by_service: await told.closed,
    vanished: await cut.closed,
  };
}
