// Drives one Chromium for the Go test beside it: a JSON request a line on
// standard input, a JSON answer a line on standard output. It decides nothing.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: "light" });
const page = await context.newPage();

// What must never happen: an error, a violation of the policy, a dialog.
const problems = [];
page.on("pageerror", (e) => problems.push(`error: ${e.message}`));
page.on("console", (m) => { if (["error", "warning"].includes(m.type())) problems.push(`console: ${m.text()} (${m.location().url})`); });
page.on("dialog", async (d) => { problems.push(`dialog: ${d.message()}`); await d.dismiss(); });
await page.exposeFunction("violated", (what) => problems.push(`violation: ${what}`));
await page.addInitScript(() => {
  document.addEventListener("securitypolicyviolation", (e) => window.violated(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
});

const does = {
  goto: async ({ url }) => { const r = await page.goto(url); return r.status(); },
  eval: ({ script }) => page.evaluate(script),
  click: ({ selector }) => page.click(selector, { timeout: 10000 }),
  key: ({ key }) => page.keyboard.press(key),
  view: async ({ width, height, colour, forced, motion }) => {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: colour, forcedColors: forced ? "active" : "none", reducedMotion: motion ? "no-preference" : "reduce" });
  },
  shot: async ({ path, full }) => { await page.screenshot({ path, fullPage: full }); },
  problems: () => problems,
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await does[request.do](request)) ?? null };
  } catch (e) {
    answer = { error: String(e.message) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
