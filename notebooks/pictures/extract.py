"""Write the README's pictures: the figure of every notebook cell tagged picture-NAME."""

import base64
import json
from pathlib import Path

HERE = Path(__file__).parent


def pictures() -> dict[str, bytes]:
    """NAME -> PNG, from the committed outputs of the notebooks."""
    found = {}
    for notebook in sorted(HERE.parent.glob("*.ipynb")):
        for cell in json.loads(notebook.read_text())["cells"]:
            names = [t for t in cell["metadata"].get("tags", []) if t.startswith("picture-")]
            images = [
                o["data"]["image/png"]
                for o in cell.get("outputs", [])
                if "image/png" in o.get("data", {})
            ]
            for name, image in zip(names, images[-1:], strict=True):
                found[name.removeprefix("picture-")] = base64.b64decode(image)
    return found


if __name__ == "__main__":
    for name, content in pictures().items():
        (HERE / f"{name}.png").write_bytes(content)
