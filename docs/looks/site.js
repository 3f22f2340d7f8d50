// The theme puts a <nav> without a name around each button that copies code. Each gets a name of its own.
new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav").forEach((one, i) => one.setAttribute("aria-label", `Code ${i + 1}`));
}).observe(document.body, { childList: true, subtree: true });
