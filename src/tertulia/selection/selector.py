"""The selector: a recommendation with the figures that it rests on.

What it needs to answer is imported when it is asked, so that whoever imports the package does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tertulia.selection.recommendation import RULES_OF_THUMB, Recommendation, Rival
from tertulia.selection.requirement import CommunicationRequirement

if TYPE_CHECKING:
    from pathlib import Path

    from tertulia.selection.profile import Profile

__all__ = ["RULES_OF_THUMB", "CommunicationSelector", "Recommendation", "Rival"]


class CommunicationSelector:
    """Recommends how agents should communicate, from a profile: `CommunicationSelector().recommend(requirement)`.

    Without a profile it takes the user's latest (`.tertulia/profile.json` in the current folder, or in `folder`), else
    the one that comes with the package. Raises ProfileError for a profile that cannot be used.
    """

    def __init__(self, profile: Profile | None = None, *, folder: Path | None = None) -> None:
        from tertulia.selection.profile import own_profile  # noqa: PLC0415 - see above

        self.profile = own_profile(folder) if profile is None else profile

    def recommend(self, requirement: CommunicationRequirement, *, language: str = "en") -> Recommendation:
        """Return what fits the requirement, with reasons in English ("en") or Spanish ("es").

        Raises NoEngineFitsError when no engine can do what is required, NotMeasuredError when the profile has nothing
        about the use case, InvalidInputError for another language.
        """
        from tertulia.selection.advising import advise  # noqa: PLC0415 - see above

        return advise(self.profile, requirement, language)
