"""The verbs of the service, and what a method of each is asked and answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeQuestion, Yielded
from pellucid_server.engine.asking.question import Attribution, Question
from pellucid_server.engine.asking.sites import SiteQuestion
from pellucid_server.engine.asking.studies import StudyQuestion
from pellucid_server.vocabulary.findings import Findings

F = TypeVar("F", bound=Callable[..., Any])
"""The type of a verb's methods."""


@dataclass(frozen=True, slots=True)
class Verb(Generic[F]):
    """A verb; `name` is what callers read of it in a method's `rpc`.

    Methods of one verb may be asked different questions: `asked` names the question's kind.
    """

    name: str
    asked: str = field(default="", compare=False)

    @property
    def rpc(self) -> str:
        """The name of its RPC."""
        return self.name.capitalize()


ATTRIBUTE: Verb[Callable[[Handle, Question, Any], Attribution]] = Verb("attribute")
"""What was a prediction based on? One row in, its attribution out."""

ABLATE: Verb[Callable[[Handle, SiteQuestion, Any], Iterator[Findings]]] = Verb("ablate")
"""What if a part of the model were different? Answered in parts."""

COUNTERFACTUAL: Verb[Callable[[Handle, tuple[CounterfactualQuestion, ...], Any], Iterator[Findings]]] = Verb(
    "ablate", asked="counterfactual"
)
"""What if the input were different? Answered in a part for each row."""

STUDY: Verb[Callable[[Handle, StudyQuestion, Any], Iterator[Findings]]] = Verb("ablate", asked="study")
"""How well does a model do on labelled data if a part of it were different? Answered in parts."""

DISSECT: Verb[Callable[[Handle, ProbeQuestion, Any], Iterator[Yielded]]] = Verb("dissect")
"""What is inside the model? Answered in parts."""
