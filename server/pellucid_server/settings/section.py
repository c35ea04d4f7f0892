"""What all sections of the settings are made of."""

import re

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A section: unknown settings are refused, and the text under each field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def spelled(pattern: str, meaning: str) -> AfterValidator:
    """Return a check of how a text is spelled; one that is wrong is refused with `meaning`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(meaning)
        return text

    return AfterValidator(check)
