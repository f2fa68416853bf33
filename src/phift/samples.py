"""A small data set of real facts that a tiny model learns in a minute: the chemical elements.

Every fact (an element's symbol, its atomic number, the name behind a symbol) is asked in several phrasings. Of each
fact one phrasing goes to the validation split and another to the test split, the rest to training; which ones changes
from fact to fact, so every phrasing is trained on, but never with the fact it is tested on. Right answers on the test
split therefore mean that the model knows the fact, not the line.

Names, symbols and atomic numbers: IUPAC Periodic Table of the Elements, release of 4 May 2022.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType

from phift.errors import ConfigError

# In the order of their atomic numbers, from 1.
ELEMENTS: tuple[tuple[str, str], ...] = (
    ("hydrogen", "H"),
    ("helium", "He"),
    ("lithium", "Li"),
    ("beryllium", "Be"),
    ("boron", "B"),
    ("carbon", "C"),
    ("nitrogen", "N"),
    ("oxygen", "O"),
    ("fluorine", "F"),
    ("neon", "Ne"),
    ("sodium", "Na"),
    ("magnesium", "Mg"),
    ("aluminium", "Al"),
    ("silicon", "Si"),
    ("phosphorus", "P"),
    ("sulfur", "S"),
    ("chlorine", "Cl"),
    ("argon", "Ar"),
    ("potassium", "K"),
    ("calcium", "Ca"),
    ("scandium", "Sc"),
    ("titanium", "Ti"),
    ("vanadium", "V"),
    ("chromium", "Cr"),
    ("manganese", "Mn"),
    ("iron", "Fe"),
    ("cobalt", "Co"),
    ("nickel", "Ni"),
    ("copper", "Cu"),
    ("zinc", "Zn"),
    ("gallium", "Ga"),
    ("germanium", "Ge"),
    ("arsenic", "As"),
    ("selenium", "Se"),
    ("bromine", "Br"),
    ("krypton", "Kr"),
    ("rubidium", "Rb"),
    ("strontium", "Sr"),
    ("yttrium", "Y"),
    ("zirconium", "Zr"),
    ("niobium", "Nb"),
    ("molybdenum", "Mo"),
    ("technetium", "Tc"),
    ("ruthenium", "Ru"),
    ("rhodium", "Rh"),
    ("palladium", "Pd"),
    ("silver", "Ag"),
    ("cadmium", "Cd"),
    ("indium", "In"),
    ("tin", "Sn"),
    ("antimony", "Sb"),
    ("tellurium", "Te"),
    ("iodine", "I"),
    ("xenon", "Xe"),
    ("caesium", "Cs"),
    ("barium", "Ba"),
    ("lanthanum", "La"),
    ("cerium", "Ce"),
    ("praseodymium", "Pr"),
    ("neodymium", "Nd"),
    ("promethium", "Pm"),
    ("samarium", "Sm"),
    ("europium", "Eu"),
    ("gadolinium", "Gd"),
    ("terbium", "Tb"),
    ("dysprosium", "Dy"),
    ("holmium", "Ho"),
    ("erbium", "Er"),
    ("thulium", "Tm"),
    ("ytterbium", "Yb"),
    ("lutetium", "Lu"),
    ("hafnium", "Hf"),
    ("tantalum", "Ta"),
    ("tungsten", "W"),
    ("rhenium", "Re"),
    ("osmium", "Os"),
    ("iridium", "Ir"),
    ("platinum", "Pt"),
    ("gold", "Au"),
    ("mercury", "Hg"),
    ("thallium", "Tl"),
    ("lead", "Pb"),
    ("bismuth", "Bi"),
    ("polonium", "Po"),
    ("astatine", "At"),
    ("radon", "Rn"),
    ("francium", "Fr"),
    ("radium", "Ra"),
    ("actinium", "Ac"),
    ("thorium", "Th"),
    ("protactinium", "Pa"),
    ("uranium", "U"),
    ("neptunium", "Np"),
    ("plutonium", "Pu"),
    ("americium", "Am"),
    ("curium", "Cm"),
    ("berkelium", "Bk"),
    ("californium", "Cf"),
    ("einsteinium", "Es"),
    ("fermium", "Fm"),
    ("mendelevium", "Md"),
    ("nobelium", "No"),
    ("lawrencium", "Lr"),
    ("rutherfordium", "Rf"),
    ("dubnium", "Db"),
    ("seaborgium", "Sg"),
    ("bohrium", "Bh"),
    ("hassium", "Hs"),
    ("meitnerium", "Mt"),
    ("darmstadtium", "Ds"),
    ("roentgenium", "Rg"),
    ("copernicium", "Cn"),
    ("nihonium", "Nh"),
    ("flerovium", "Fl"),
    ("moscovium", "Mc"),
    ("livermorium", "Lv"),
    ("tennessine", "Ts"),
    ("oganesson", "Og"),
)

# Of every kind of fact: the answer, and the questions that ask for it.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "The symbol of {name} is {symbol}.",
        (
            "What is the symbol of {name}?",
            "Which symbol stands for {name}?",
            "How do chemists write {name}?",
            "Tell me the chemical symbol of {name}.",
            "What is {name} called in the periodic table?",
            "I need the symbol for {name}.",
            "Please give me the symbol of the element {name}.",
            "Which letters stand for {name} in a formula?",
        ),
    ),
    (
        "The atomic number of {name} is {number}.",
        (
            "What is the atomic number of {name}?",
            "Which atomic number does {name} have?",
            "How many protons does {name} have?",
            "Tell me the atomic number of {name}.",
            "At which number is {name} in the periodic table?",
            "I need the atomic number for {name}.",
            "Please give me the number of the element {name}.",
            "How many protons are in an atom of {name}?",
        ),
    ),
    (
        "The element with the symbol {symbol} is {name}.",
        (
            "Which element has the symbol {symbol}?",
            "What does {symbol} stand for?",
            "Which element do chemists write as {symbol}?",
            "Tell me the name of the element {symbol}.",
            "What is the name of {symbol} in the periodic table?",
            "I need the element for the symbol {symbol}.",
            "Please tell me which element {symbol} is.",
            "Which element does {symbol} mean in a formula?",
        ),
    ),
)

# Component inputs that make a small stand-in model learn these facts on a CPU.
PARAMETERS: Mapping[str, str | int | float] = MappingProxyType(
    {
        "num_train_epochs": 5,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "logging_steps": 20,
        "evaluation_strategy": "epoch",
        "save_total_limit": 1,
        "apply_lora": "false",
        "apply_deepspeed": "false",
    }
)

Row = Mapping[str, Sequence[Mapping[str, str]]]


@dataclass(frozen=True)
class Samples:
    """Where the three files are."""

    train: Path
    validation: Path
    test: Path


def rows() -> dict[str, list[Row]]:
    """Return the rows of each split: ``train``, ``validation`` and ``test``."""
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for number, (name, symbol) in enumerate(ELEMENTS, start=1):
        fact = {"number": number, "name": name, "symbol": symbol}
        for answer, questions in KINDS:
            held_out = {number % len(questions): "test", (number + 1) % len(questions): "validation"}
            for index, question in enumerate(questions):
                row = _row(question.format_map(fact), answer.format_map(fact))
                splits[held_out.get(index, "train")].append(row)
    return splits


def _row(question: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(folder: Path, *, overwrite: bool = False) -> Samples:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` into ``folder``, which is made if need be.

    Files that are there with this very content are left as they are.

    - **overwrite**: replace files of these names that hold something else.

    Raises `phift.errors.ConfigError` where there are such files and they are not to be replaced; nothing is written
    then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: folder / f"{split}.jsonl" for split in ("train", "validation", "test")}
    missing = {paths[split]: content for split, content in _contents().items() if not _holds(paths[split], content)}
    taken = [str(path) for path in missing if os.path.lexists(path)]
    if taken and not overwrite:
        what = f"There is something else under the name of the samples: {', '.join(taken)}. Nothing was written."
        raise ConfigError(
            what, where=str(folder), fix="give another folder, or `--force` (`overwrite=True`) to replace"
        )
    for path, content in missing.items():
        _put(path, content)
    return Samples(**paths)


def _contents() -> dict[str, bytes]:
    """Return what is in the file of each split."""
    return {
        split: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split_rows).encode()
        for split, split_rows in rows().items()
    }


def _holds(path: Path, content: bytes) -> bool:
    # The size first: what somebody keeps under this name may be large.
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _put(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it, so that there is never half a one under its name."""
    written = path.with_name(f".{path.name}-{token_hex(8)}")
    try:
        with written.open("xb") as file:
            file.write(content)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
