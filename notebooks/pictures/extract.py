"""Write the README's pictures: the figure of every notebook cell tagged picture-NAME."""

import base64
import json
from pathlib import Path

HERE = Path(__file__).parent


def pictures() -> dict[str, bytes]:
    """File name -> picture, from the committed outputs of the notebooks."""
    found = {}
    for notebook in sorted(HERE.parent.glob("*.ipynb")):
        for cell in json.loads(notebook.read_text())["cells"]:
            names = [t for t in cell["metadata"].get("tags", []) if t.startswith("picture-")]
            shown = [output.get("data", {}) for output in cell.get("outputs", [])]
            for kind, ending in (("image/png", "png"), ("image/jpeg", "jpg")):
                for name, data in zip(names, [d for d in shown if kind in d], strict=False):
                    file = f"{name.removeprefix('picture-')}.{ending}"
                    found[file] = base64.b64decode(data[kind])
    return found


if __name__ == "__main__":
    for name, content in pictures().items():
        (HERE / name).write_bytes(content)
