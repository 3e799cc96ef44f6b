"""The documentation site: built as a whole, without a warning and without a network; everything is on it."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    target = tmp_path_factory.mktemp("site")
    # whoever asks a server for something gets no answer, and that is an error of the build
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    quiet = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's advertisement
    # not --quiet, which has --strict overlook warnings
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, **nowhere, **quiet}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return target


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation(site):
    home = text_of(site / "index.html")
    sources = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    sources += [Path("repository") / path.relative_to(ROOT) for path in ROOT.glob("egs/*/RESULTS.md")]
    for source in (path.with_suffix(".html") for path in sources):
        assert (site / source).is_file(), source
        assert f'href="{source.as_posix()}"' in home, source


def test_nothing_is_fetched_to_read_it(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|audio|video)\b[^>]*>", text_of(page)):
            if 'rel="canonical"' not in tag:
                assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page.name}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", text_of(sheet)), sheet.name


def test_formulas_are_mathml(site):
    page = text_of(site / "maths.html")
    formulas = re.findall(r"<math\b.*?</math>", page, re.DOTALL)
    source = re.sub(r"^```.*?^```", "", text_of(ROOT / "docs" / "maths.md"), flags=re.DOTALL | re.MULTILINE)
    dollars = re.sub(r"`[^`\n]*`", "", source).count("$")
    displayed = source.count("$$") // 2
    assert len(formulas) == displayed + (dollars - 4 * displayed) // 2
    assert 'class="arithmatex"' not in page
    assert "<mfrac>" in page


def test_the_reference_has_the_docstrings(site):
    page = html.unescape(text_of(site / "reference" / "quantization.html"))
    for name in ("GaussianQuantizer", "VmfQuantizer", "VectorQuantizer", "ResidualQuantizer", "GroupedQuantizer"):
        assert f'id="sqvae_speech.quantization.{name}"' in page
    assert "where the trainable scalar" in page  # an argument's description
    for reference in (site / "reference").glob("*.html"):
        assert not re.search(r":(?:class|meth|func|attr|mod):", text_of(reference)), reference.name
    tokenizer = text_of(site / "reference" / "tokenizer.html")
    assert 'href="#sqvae_speech.tokenizer.SpeechTokenizer.encode"' in tokenizer  # a reference became a link
    assert 'id="sqvae_speech.tokenizer.SpeechTokenizer.from_pretrained"' in tokenizer  # which is of a base
    assert "device," not in re.sub(r"<[^>]+>", "", tokenizer)  # a line of two names became two


def test_links_to_results_lead_there(site):
    assert 'href="repository/egs/fsdd/RESULTS.html' in text_of(site / "recipes.html")
    results = text_of(site / "repository" / "egs" / "fsdd" / "RESULTS.html")
    assert 'src="results/error.png"' in results
    assert (site / "repository" / "egs" / "fsdd" / "results" / "error.png").is_file()
