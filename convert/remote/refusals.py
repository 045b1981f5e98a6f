"""What the Hub's refusals mean, as errors that say what to do next.

Knows nothing of requests: a status and its headers in, an error out. The Hub tells its
refusals apart in `X-Error-Code`, as huggingface_hub's `hf_raise_for_status` reads it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from huggingface_hub.utils import parse_ratelimit_headers

from mlx_maverick.errors import MaverickError, NotFound

LOGIN = "set HF_TOKEN or run 'hf auth login'"


def may_pass(status: int) -> bool:
    """Whether the same request may succeed later: overload, limits, servers that restart."""
    return status in (408, 425, 429) or status >= 500


def seconds_to_wait(headers: Mapping[str, str]) -> float:
    """What `Retry-After`, or the Hub's own `RateLimit`, asks for; 0 without either.

    https://huggingface.co/docs/hub/rate-limits
    """
    asked = headers.get("retry-after", "").strip()
    if asked.isdigit():
        return float(asked)
    if asked:
        try:
            until = parsedate_to_datetime(asked)
        except ValueError:
            return 0.0
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else 0.0


def refusal(
    status: int, headers: Mapping[str, str], endpoint: str, repo: str, what: str
) -> MaverickError:
    """The error for a status that will not pass; `what` is a revision, or a file."""
    code = headers.get("x-error-code", "")
    said = one_line(headers.get("x-error-message", ""))
    page = f"{endpoint}/{repo}"
    if code == "GatedRepo":
        return MaverickError(
            f"{repo} is gated{_quote(said)}; accept its licence at {page}, then {LOGIN}"
        )
    if code == "RevisionNotFound":
        return NotFound(f"{repo} has no revision {what}; its revisions are at {page}/commits/main")
    if code == "EntryNotFound":
        return NotFound(f"{repo} has no {what}, though it is listed; run the same command again")
    if status == 401 and "credential" in said.lower():
        return MaverickError(
            f"the Hub refuses the token{_quote(said)}; make one at {endpoint}/settings/tokens, "
            f"then {LOGIN}"
        )
    if code == "RepoNotFound" or status in (401, 404):
        return NotFound(
            f"{repo} is not at {endpoint}, or it is private; check the name, or {LOGIN}"
        )
    if status == 403:
        return MaverickError(
            f"the Hub does not let this token read {repo}{_quote(said)}; see {page}, or {LOGIN} "
            "with another one"
        )
    return MaverickError(f"the Hub answers {status} for {what} of {repo}{_quote(said)}; see {page}")


def one_line(text: str) -> str:
    """A server's own words, fit for a terminal: short, and without control characters."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(plain.split())[:200]


def _quote(said: str) -> str:
    return f" ({said.rstrip('.')})" if said else ""
