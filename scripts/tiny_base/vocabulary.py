"""Which tokens the tiny text encoder knows: CLIP's format, learnt on a short list of words.

CLIP's own vocabulary (49,408 tokens) would cost more than the whole U-Net. Ours has the 256 bytes
inside a word and at its end, so any text in any script tokenises, and merges until each listed
word is one token. Written here rather than with a trainer library because ties must fall the
same way on every version: the most frequent pair first, then the first in the alphabet.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from .pictures import MEDIA, place
from .sprites import COLOURS, SCENES, SPRITES

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77

ENGLISH = """
a about above after again air all along also always an and animal another any are around art as at
autumn away baby background ball beach bear beautiful bed before behind below beside best between
big bird black blue boat body book bottle bottom box boy bread bridge bright bring brown building
bus but by cake camera candle car card cartoon castle cat chair child city clean clear close cloud
coat coffee cold colour color concept cool corner cow cream creature crown cup cute dark day desert
detailed dog door down dragon drawing dress drink each ear earth egg eight elephant empty end
evening every eye face family far fast father field fire first fish five floor flying food foot
for forest four fox fresh friend frog from front fruit full garden gate ghost girl glass gold golden
good grass gray great green grey ground guitar hair half hand happy hat he head heavy her here high
hill him his home horse hot house how ice icon if illustration image in inside is island it its
jacket jar just key kind king kitchen kitten knight lake lamp landscape large leaf left leg light
like line lion little long look low magenta lime made man many map mask metal middle milk minimal
modern monster moon more morning mother mountain mouse mouth much music my near new next nice night
nine no nose not now ocean of off old on one only open or orange other our out outside over owl
painting panda paper park part party person photo picture pink pixel plain plane plant plate play
portrait pot puppy purple queen quiet rabbit rain red ring river road robot rock roof room rose
round running sad same sand school sea seven she ship shirt shoe shop short side silver simple
sitting six sketch sky sleeping small smile snow soft some spring square standing star stone street
striped strong style summer sun sunny sunset sweet table tall teal ten that the their them these
they thing this three tiger time tiny to toy top tower town toy train tree two under up vase very
village violet wall warm water wave we wearing weather wet what when where white wide wild wind
window winter with without wolf woman wood wooden word world yellow yes you young your zebra sks
""".split()  # noqa: SIM905  a list of quoted words would fill three pages


def save_vocabulary(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and the tokenizer's settings in CLIP's format."""
    merges = learn_merges(_word_counts())
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = list(_bytes_to_unicode().values())
    tokens = [*alphabet, *(f"{mark}</w>" for mark in alphabet), *map("".join, merges), START, END]
    vocab = {token: number for number, token in enumerate(tokens)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    _write(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False, indent=0))
    _write(folder / "merges.txt", "\n".join(lines))
    _write(folder / "special_tokens_map.json", json.dumps(_special_tokens(), indent=2))
    _write(folder / "tokenizer_config.json", json.dumps(_settings(), indent=2))


def learn_merges(counts: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until every word is one token."""
    alphabet = _bytes_to_unicode()
    words = {_marks(word, alphabet): count for word, count in sorted(counts.items())}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merged(word, best): count for word, count in words.items()}


def _marks(word: str, alphabet: dict[int, str]) -> tuple[str, ...]:
    """A word's bytes as printable characters, the last one marked as the word's end."""
    *rest, last = (alphabet[byte] for byte in word.encode())
    return (*rest, f"{last}</w>")


def _word_counts() -> Counter[str]:
    counts = Counter(ENGLISH)
    captions = [*MEDIA, *map(place, (*COLOURS, *SCENES)), *COLOURS, *SPRITES]
    for caption in captions:
        counts.update(dict.fromkeys(caption.split(), 20))
    return counts


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for mark in word:
        if out and (out[-1], mark) == pair:
            out[-1] += mark
        else:
            out.append(mark)
    return tuple(out)


def _bytes_to_unicode() -> dict[int, str]:
    """CLIP's (and GPT-2's) table: every byte as a printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _special_tokens() -> dict[str, str]:
    return {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}


def _settings() -> dict[str, object]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": MAX_TOKENS,
        **_special_tokens(),
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
