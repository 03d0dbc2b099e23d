"""Takes the pictures of docs/view.md: `glyphrl view` over real runs, in headless Chromium.

    python scripts/view_screenshots.py RUN [RUN ...] [--out docs/images]

The runs should hold GRPO steps and evaluations, as those of `glyphrl quickstart` do.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

LAPTOP, PHONE = (1280, 860), (390, 844)


def open_page(browser: Browser, size: tuple[int, int], scheme: Any) -> Page:
    """A page of that size, light or dark."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    return context.new_page()


def telling_group(page: Page, address: str) -> str:
    """The group of the last step whose rewards are widest apart."""
    page.goto(f"{address}/run/0/step")
    page.goto(page.url + "?sort=-spread")
    return str(page.locator("a.group").first.get_attribute("href"))


def take(browser: Browser, address: str, out: Path) -> None:
    """Takes all pictures."""
    group = telling_group(open_page(browser, LAPTOP, "light"), address)
    pictures: list[tuple[str, str, tuple[int, int], Any]] = [
        ("view-curves", "/", LAPTOP, "light"),
        ("view-group", group, LAPTOP, "light"),
        ("view-group-phone", group, PHONE, "dark"),
        ("view-predictions", "/run/0/evaluation/grpo?sort=improved", LAPTOP, "light"),
        ("view-confusions", "/run/0/evaluation/grpo/confusions", LAPTOP, "dark"),
    ]
    for name, path, size, scheme in pictures:
        page = open_page(browser, size, scheme)
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=out / f"{name}.png")
        print(out / f"{name}.png")


def main() -> int:
    """Starts the command and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    browser_path = next((found for found in map(shutil.which, ("chromium", "google-chrome")) if found), None)
    command = [sys.executable, "-m", "glyphrl", "view", *args.runs, "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout is not None
        match = re.search(r"http://\S+:\d+", server.stdout.readline())
        assert match, "the command did not say its address"
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.goto(match[0])
            page.wait_for_function(
                "fetch('/api/state').then(r => r.json()).then(s => s.runs.every(r => r.found && r.read === r.found))"
            )
            page.wait_for_timeout(3000)  # the evaluations are read after the log
            take(browser, match[0], args.out)
        finally:
            browser.close()
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
