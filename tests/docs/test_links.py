"""The checker of the built site names links that lead nowhere, and what a page loads from other servers."""

from links import check_site


def write(folder, **pages):
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return folder


def test_links_within_the_site_lead_somewhere(tmp_path):
    site = write(
        tmp_path,
        a='<a href="b.html#here">b</a><a href="https://example.org">out</a><img src="data:image/png;base64,AA==">',
        b='<h2 id="here">Here</h2><a href="#here">up</a>',
    )
    assert check_site(site) == ([], {"https://example.org"})


def test_a_missing_page_a_missing_heading_and_a_load_from_elsewhere_are_named(tmp_path):
    site = write(
        tmp_path,
        c='<a href="gone.html">g</a><a href="d.html#gone">h</a><script src="https://cdn.example/x.js"></script>',
        d="<p>Nothing</p>",
    )
    wrong, _ = check_site(site)
    assert wrong == [
        "c.html links to d.html#gone, which is not there",
        "c.html links to gone.html, which is not there",
        "c.html loads https://cdn.example/x.js",
    ]
