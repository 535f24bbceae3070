"""The page that tells a run: what was asked, what was done, and whether it is any good.

`facts` is what the page is told, `curve` reads the loss in words, `plot` draws it, `images` makes
pictures small, `page` writes the one self-contained file.
"""

from tenner.report.facts import (
    ChoiceFact,
    ConceptFact,
    CostFacts,
    DatasetFacts,
    DatasetImage,
    FileFact,
    LossCurve,
    Notice,
    Pair,
    ReportFacts,
    SampleImage,
    SampleSet,
    SettingFact,
    TimingFact,
)
from tenner.report.page import render_report, write_report

__all__ = [
    "ChoiceFact",
    "ConceptFact",
    "CostFacts",
    "DatasetFacts",
    "DatasetImage",
    "FileFact",
    "LossCurve",
    "Notice",
    "Pair",
    "ReportFacts",
    "SampleImage",
    "SampleSet",
    "SettingFact",
    "TimingFact",
    "render_report",
    "write_report",
]
