// What the theme leaves out: a name for the <nav> around each button that copies code, and a way to scroll a wide table by
// the keyboard.
new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav").forEach((one, i) => one.setAttribute("aria-label", `Code ${i + 1}`));
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((one) => one.setAttribute("tabindex", "0"));
}).observe(document.body, { childList: true, subtree: true });
