"""The page in headless Chromium: it fits a phone, its filters work, its policy lets its script run and no other."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import samples
from parsed_page import page_of

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--allow-file-access-from-files",
    "--window-size=1400,1000",
    "--dump-dom",
]

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed (apt-get install chromium)")

# A window cannot be as narrow as a phone, a frame can. The page itself stays as it was written.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><pre id="result"></pre>
<iframe src="report.html" width="WIDTH" height="844" style="border:0"></iframe>
<script>
onload = () => {
  const page = frames[0], d = page.document, form = d.getElementById("filters");
  const seen = (selector) => [...d.querySelectorAll(selector)].filter((one) => one.checkVisibility()).length;
  const fits = () => page.innerWidth - d.scrollingElement.scrollWidth;
  const choose = (name, value) => {
    form.elements[name].value = value;
    form.dispatchEvent(new page.Event("input", {bubbles: true}));
    return [seen("tr.case"), seen(".finding"), form.querySelector("output").textContent];
  };
  const result = {width: page.innerWidth, room: fits(), title: d.title};
  result.background = page.getComputedStyle(d.body).backgroundColor;
  for (const one of d.querySelectorAll("details")) one.open = true;
  result.unfolded = fits();
  result.all = choose("q", "");
  result.frame = choose("area", "frame");
  result.failing = choose("outcome", "fail");
  result.bytes = choose("q", "7F ff  length");
  result.none = choose("q", "no such words");
  result.nothing = seen("#nothing");
  d.querySelector("[data-set-outcome]").click();
  result.link = form.elements.outcome.value + form.elements.area.value + form.elements.q.value;
  document.getElementById("result").textContent = JSON.stringify(result);
};
</script>"""


def opened(directory: Path, width: int, *flags: str) -> dict[str, Any]:
    """Opens the page in a frame of that width, uses its filters, and brings back what was seen."""
    probe = directory / "probe.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={directory / 'profile'}", *flags, probe.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=100, check=True)
    found = re.search(r'<pre id="result">(.+?)</pre>', done.stdout.decode())
    assert found, f"the probe brought nothing back: {done.stderr.decode()}"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert result["width"] == width
    return result


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_its_filters_work(width: int, tmp_path: Path) -> None:
    page_of(tmp_path, samples.likely())
    seen = opened(tmp_path, width)
    assert seen["room"] >= 0
    assert seen["unfolded"] >= 0
    assert seen["all"] == [21, 6, "21 cases"]
    assert seen["frame"] == [5, 2, "5 of 21 cases"]
    assert seen["failing"] == [2, 2, "2 of 21 cases"]
    assert seen["bytes"] == [1, 1, "1 of 21 cases"]
    assert seen["none"] == [0, 0, "0 of 21 cases"]
    assert seen["nothing"] == 1
    assert seen["link"] == "fail"


@pytest.mark.parametrize("width", [390, 1280])
def test_bytes_of_strangers_run_nowhere_and_fit(width: int, tmp_path: Path) -> None:
    page_of(tmp_path, samples.hostile(), samples.likely(), samples.hostile())
    seen = opened(tmp_path, width)
    assert seen["title"] == "0 of 3 subjects conform."
    assert seen["room"] >= 0
    assert seen["unfolded"] >= 0


def test_the_page_follows_the_reader_into_the_dark(tmp_path: Path) -> None:
    page_of(tmp_path, samples.good())
    assert opened(tmp_path, 390)["background"] == "rgb(251, 250, 247)"
    assert opened(tmp_path, 390, "--blink-settings=preferredColorScheme=0")["background"] == "rgb(22, 22, 21)"
