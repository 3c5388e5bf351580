"""Checks of a report that a browser is not needed for, and one of a screenshot. Standard library only.

    report_page.py page PAGE.html               well-formed, reachable without sight, no script, no network, contrast
    report_page.py rival SUMMARY.json METHOD BITS   the error of a method at these stored bits, between its plans
    report_page.py measured PAGE.html WRAPPER.html  a page that shows the report at several widths and says how wide it is
    report_page.py pixel PICTURE.png X Y        the colour at a place, as #rrggbb

Prints what is wrong, a line each, and exits with 1."""
import html.parser
import json
import math
import re
import struct
import sys
import zlib

VOID = {"meta", "br", "img", "hr", "input", "link"}
HEADINGS = {"h1", "h2", "h3"}


class Page(html.parser.HTMLParser):
    """Every start tag has its end, and what must not be missing is there."""

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.open, self.wrong, self.ids, self.refs = [], [], [], []
        self.n_tables = self.n_captions = self.n_svg = self.n_named_svg = 0
        self.levels, self.has_viewport = [], False

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if tag in ("script", "iframe", "object", "embed", "link"):
            self.wrong.append(f"element {tag}")
        for name, value in attributes:
            if name.startswith("on"):
                self.wrong.append(f"attribute {name}")
            if re.search(r"(https?:)?//", value or "") or (name in ("src", "href") and not (value or "").startswith("#")):
                self.wrong.append(f"{name}={value}")
        if "id" in a:
            self.ids.append(a["id"])
        for name in ("aria-labelledby", "aria-describedby"):
            self.refs += (a.get(name) or "").split()
        self.n_tables += tag == "table"
        self.n_captions += tag == "caption"
        self.has_viewport |= tag == "meta" and a.get("name") == "viewport" and "width=device-width" in a.get("content", "")
        if tag == "svg":
            self.n_svg += 1
            self.n_named_svg += a.get("role") == "img" and len((a.get("aria-labelledby") or "").split()) == 2
        if tag == "th" and a.get("scope") not in ("row", "col"):
            self.wrong.append("th without a scope")
        if tag in HEADINGS:
            self.levels.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1:]} at {self.getpos()}")
        else:
            self.open.pop()

    def finish(self):
        self.close()
        if self.open:
            self.wrong.append(f"left open: {self.open}")
        if len(self.ids) != len(set(self.ids)):
            self.wrong.append("an id twice")
        self.wrong += [f"names {ref}, which is not there" for ref in self.refs if ref not in self.ids]
        if self.n_captions != self.n_tables:
            self.wrong.append(f"{self.n_tables} tables with {self.n_captions} captions")
        if self.n_named_svg != self.n_svg or self.n_svg == 0:
            self.wrong.append(f"{self.n_svg} pictures, {self.n_named_svg} with title and description")
        if self.levels[:1] != [1] or any(b > a + 1 for a, b in zip(self.levels, self.levels[1:])):
            self.wrong.append(f"headings {self.levels}")
        if not self.has_viewport:
            self.wrong.append("no viewport")
        return self.wrong


# ---- contrast -------------------------------------------------------------------------------------------------------

# Letters, and what they stand on.
TEXT_PAIRS = [(ink, ground) for ink in ("text", "quiet", "accent") for ground in ("page", "own")] + [
    ("text", "card"), ("warn-text", "warn-page")]
# Lines and areas that carry meaning, on the page: 3 is asked of them.
SHAPE_PAIRS = [(name, "page") for name in ("accent", "gtq", "uniform", "bound")]


def luminance(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def schemes(text):
    """The variables of the light scheme, and of the dark one on top of them."""
    roots = re.findall(r":root \{([^}]*)\}", text)
    light = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", roots[0]))
    dark = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", roots[1]))
    return {"light": light, "dark": {**light, **dark}}


def contrasts(text):
    for scheme, colours in schemes(text).items():
        for pairs, least in ((TEXT_PAIRS, 4.5), (SHAPE_PAIRS, 3.0)):
            for ink, ground in pairs:
                found = contrast(colours[ink], colours[ground])
                if found < least:
                    yield f"{scheme}: {ink} on {ground} has a contrast of {found:.2f}, expected {least}"


def page(path):
    text = open(path, encoding="utf-8").read()
    parser = Page()
    parser.feed(text)
    return parser.finish() + list(contrasts(text))


# ---- numbers --------------------------------------------------------------------------------------------------------

def rival(path, method, bits):
    """Layer by layer on a straight line of logarithms between the plans next to these bits, then the mean."""
    plans = sorted((m["true_bits"], m["logit_mae_by_layer"]) for m in json.load(open(path))["methods"]
                   if m["method"] == method)
    below = [p for p in plans if p[0] <= bits + 5e-4][-1]
    above = [p for p in plans if p[0] >= bits - 5e-4][0]
    part = (bits - below[0]) / (above[0] - below[0]) if above[0] > below[0] else 0.0
    layers = [math.exp(math.log(a) + part * (math.log(b) - math.log(a))) for a, b in zip(below[1], above[1])]
    print(f"{sum(layers) / len(layers):.3g}")
    return []


# ---- in a browser ---------------------------------------------------------------------------------------------------

def measured(path, wrapper):
    """The report in frames of several widths. Each tells its width, and that of what it holds, to the page around it,
    which browsers can print (--dump-dom). Only this copy of the report has a script."""
    tell = "<script>onload = () => parent.postMessage([innerWidth, document.documentElement.scrollWidth], '*')</script>"
    text = open(path, encoding="utf-8").read().replace("</body>", tell + "</body>")
    copy = wrapper + ".page.html"
    open(copy, "w", encoding="utf-8").write(text)
    frames = "".join(f'<iframe src="{copy.rsplit("/", 1)[-1]}" style="border:0;width:{w}px;height:900px"></iframe>'
                     for w in (360, 390, 768, 1280))
    open(wrapper, "w").write("<!doctype html><title></title><ul id=said></ul><script>onmessage = e => said.innerHTML += "
                             "`<li>${e.data[0]} holds ${e.data[1]}</li>`</script>" + frames)
    return []


def pixel(path, x, y):
    """Of a PNG of 8 bits, RGB or RGBA, as browsers make them."""
    data = open(path, "rb").read()
    width, _, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8 and kind in (2, 6)
    size, at, packed = (3 if kind == 2 else 4), 8, b""
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at:at + 8])
        packed += data[at + 8:at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    raw, stride = zlib.decompress(packed), width * size
    above = bytearray(stride)
    for row in range(y + 1):
        line = bytearray(raw[row * (stride + 1) + 1:(row + 1) * (stride + 1)])
        unfilter(raw[row * (stride + 1)], line, above, size)
        above = line
    print("#" + above[x * size:x * size + 3].hex())
    return []


def unfilter(kind, line, above, size):
    for i in range(len(line)):
        left, up, corner = (line[i - size] if i >= size else 0), above[i], (above[i - size] if i >= size else 0)
        if kind == 1:
            line[i] = (line[i] + left) & 255
        elif kind == 2:
            line[i] = (line[i] + up) & 255
        elif kind == 3:
            line[i] = (line[i] + (left + up) // 2) & 255
        elif kind == 4:
            guess = left + up - corner
            near = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
            line[i] = (line[i] + near[2]) & 255


WHAT = {"page": page, "measured": measured, "rival": lambda path, method, bits: rival(path, method, float(bits)),
        "pixel": lambda path, x, y: pixel(path, int(x), int(y))}
problems = WHAT[sys.argv[1]](*sys.argv[2:])
print("\n".join(problems), end="\n" if problems else "")
sys.exit(1 if problems else 0)
