"""A little parser of LaTeX tables that refuses what LaTeX or booktabs would stumble over."""

import re


def parse(latex: str) -> dict:
    """Read a table back; fails on anything that LaTeX or booktabs would stumble over."""
    opened = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name, "environments cross"
    assert not opened, "an environment stays open"
    bare = re.sub(r"\\[\\%&#$_{}]", "", latex)  # without what is escaped
    assert bare.count("{") == bare.count("}")
    bare = re.sub(r"\\label\{[^}]*\}", "", bare)
    bare = re.sub(r"\$-[0-9.]+\$", "", bare)  # a negative number
    assert not re.search(r"[%#$_~^<>|]", bare), "a special character is not escaped"
    tabular = r"\\begin\{tabular\}\{([lr]+)\}\n(.*)\\end\{tabular\}"
    shape, body = re.search(tabular, latex, re.S).groups()
    lines = [line.strip() for line in body.strip().split("\n")]
    assert (lines[0], lines[2], lines[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")
    rows = []
    for line in [lines[1], *lines[3:-1]]:
        assert line.endswith(r" \\")
        cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        assert len(cells) == len(shape), "a row has another number of cells than columns"
        rows.append([cell.strip() for cell in cells])
    return {
        "shape": shape,
        "rows": rows,
        "caption": re.search(r"\\caption\{(.*)\}\n", latex)[1],
        "label": re.search(r"\\label\{(.*)\}\n", latex)[1],
    }
