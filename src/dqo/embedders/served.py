"""An encoder behind an OpenAI-compatible server, such as vLLM, SGLang or TEI."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dqo.embedders.chunking import ChunkedEmbedder
from dqo.embedders.naming import EncoderName
from dqo.errors import EndpointError
from dqo.models.endpoint import Endpoint, Unanswered

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# The server's tokenizer is not known here, so pieces are measured in bytes: at three bytes a token, which English words
# exceed, these are the 500 tokens that an encoder of 512 positions reads. What a server cuts off is not seen here.
PIECE_BYTES = 1500


class ServedEmbedder(ChunkedEmbedder):
    """Embeddings from a server; a text of more than `PIECE_BYTES` bytes is sent in pieces, which are averaged.

    Attributes:
        name: "endpoint:<base_url>#<model>", and "?prompt=<prompt>" where there is one.
        dimension: D, found out with one request when it is made, so that a dead server stops a run at its start.

    Args:
        base_url: Such as "http://localhost:8000/v1".
        model: Name of the model there.
        batch_size: Texts in one request.
        prompt: Put before every text, as the model's card asks for.
        **options: Of `dqo.models.endpoint.Endpoint`.

    Raises:
        EndpointError: The server does not answer; a key is read from the environment variable OPENAI_API_KEY.
        EncoderError: A batch size below 1.
    """

    def __init__(self, base_url: str, model: str, *, batch_size: int = 64, prompt: str = "", **options: Any) -> None:
        self._request = batch_size
        self._endpoint = Endpoint(base_url, model, **options)
        super().__init__(
            str(EncoderName(f"endpoint:{base_url}#{model}", prompt=prompt or None)),
            self._vectors([["probe"]]).shape[1],
            batch_size * max(1, self._endpoint.concurrency),
            max(PIECE_BYTES // 2, PIECE_BYTES - len(prompt.encode())),
            prompt=prompt,
        )

    @property
    def notes(self) -> list[str]:
        """What the server refused, and what was sent in its place."""
        return self._endpoint.notes

    def _count(self, texts: list[str]) -> list[int]:
        return [len(text.encode("utf-8", "replace")) for text in texts]

    def _encode(self, pieces: list[str]) -> Tensor:
        texts = [self._prompt + piece for piece in pieces]
        requests = [texts[start : start + self._request] for start in range(0, len(texts), self._request)]
        return self._vectors(requests)  # (B, D)

    def _vectors(self, requests: list[list[str]]) -> Tensor:
        answers = self._endpoint.map(self._ask, requests)
        if silent := next((answer for answer in answers if isinstance(answer, Unanswered)), None):
            raise silent.error
        return torch.cat(answers)  # (N, D)

    async def _ask(self, client: "AsyncOpenAI", texts: list[str]) -> Tensor:
        answer = await self._endpoint.post(client, "/embeddings", {"input": texts})
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = torch.tensor([row["embedding"] for row in rows], dtype=torch.float32)  # (B, D)
        except (LookupError, TypeError, ValueError, RuntimeError, OverflowError):  # JSON of something else
            vectors = torch.empty(0)
        if not vectors.numel() or vectors.shape != (len(texts), getattr(self, "dimension", vectors.shape[-1])):
            raise EndpointError(
                f"endpoint {self._endpoint.base_url}: expected one vector of numbers, all of one width, for each of "
                f"{len(texts)} texts from {self._endpoint.model!r}, got {str(answer)[:120]!r}; check that the server "
                "offers embeddings."
            )
        return vectors
