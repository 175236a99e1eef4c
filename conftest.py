"""What all tests of this repository share, the notebooks among them."""

pytest_plugins = ["browser"]  # tests/support/browser.py: the built book and a browser to look at it

# The longest first, so that two workers finish together.
SLOW = ("notebooks/", "tests/book/test_site.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW))
