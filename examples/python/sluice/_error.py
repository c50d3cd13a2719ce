# SPDX-License-Identifier: Apache-2.0
class Error(ValueError):
    """What went wrong, as one of the library's statuses: `status` is its name ("corrupt_tile"), the text says more."""

    def __init__(self, status: str, words: str = "") -> None:
        super().__init__(status, words)
        self.status = status
        self.words = words

    def __str__(self) -> str:
        return f"{self.status}: {self.words}" if self.words else self.status
