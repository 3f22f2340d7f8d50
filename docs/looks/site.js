// The theme puts a <nav> without a name around each button that copies code. A group is what it is.
new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav").forEach((one) => one.setAttribute("role", "group"));
}).observe(document.body, { childList: true, subtree: true });
