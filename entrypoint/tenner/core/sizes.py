"""Numbers of bytes as people write them."""


def size_words(num_bytes: float) -> str:
    """`812 B`, `9.5 MB`, `3.2 TB`: decimal units, as shops and file managers use."""
    size = float(num_bytes)
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < (999.5 if unit == "B" else 999.95) or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
