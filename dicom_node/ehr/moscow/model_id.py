"""`ModelId`: what an exchange calls a model; apart, because settings name it too and load no profile."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, StrictInt, StrictStr

ModelId: TypeAlias = StrictInt | Annotated[StrictStr, Field(min_length=1, max_length=64)]
