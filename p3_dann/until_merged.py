"""What common/ will offer once the data helper's work is merged; then this file goes."""

from __future__ import annotations

from pathlib import Path

try:
    from common.dataset import digit_domains, domain_title, has_labels
except ImportError:
    from common.dataset import read_names, read_names_and_labels
    from common.errors import UserError

    def digit_domains(data_root: Path) -> list[str]:
        """Return the folders below digits/."""
        return sorted(path.name for path in (Path(data_root) / "digits").glob("*/"))

    def domain_title(domain: str) -> str:
        """Return how texts call a domain."""
        return {"mnistm": "MNIST-M", "svhn": "SVHN", "usps": "USPS"}.get(domain, domain)

    def has_labels(data_root: Path, domain: str, split: str) -> bool:
        """Return whether every picture of a split has a label; False without the split."""
        path = Path(data_root) / "digits" / domain / f"{split}.csv"
        if not path.is_file():
            return False
        read_names(path)
        try:
            return bool(read_names_and_labels(path))
        except UserError:
            return False


try:
    from common.decode import read_picture, square
except ImportError:
    from data.pictures import read_picture, square

__all__ = ["digit_domains", "domain_title", "has_labels", "read_picture", "square"]
