"""A page that is open in a browser, and what it asked for and complained of."""

import importlib.resources

AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
LOOKS = [(width, scheme) for width in (400, 1600) for scheme in ("light", "dark")]


class Visit:
    """Opens an address, and closes the page at the end of a `with` statement."""

    def __init__(self, browser, address, width=1600, scheme="light"):
        # `bypass_csp` would let axe in by a tag; evaluating it needs none, so the page's policy holds.
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said, self.requests = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.close()

    def find_violations(self):
        """Returns what axe finds: the rule, and the first element that breaks it."""
        self.page.evaluate(AXE)
        found = self.page.evaluate('axe.run({resultTypes: ["violations"]})')["violations"]
        return [(one["id"], one["nodes"][0]["html"]) for one in found]

    def content_width(self):
        return self.page.evaluate("document.documentElement.scrollWidth")

    def ground(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")
