"""Alertmanager's HTTP interface: alerts out, and what became of one of them.

Enters: alert objects and a session, which are the caller's. Leaves: a sentence about what went wrong, empty if nothing
did. Format: Alertmanager's OpenAPI, api/v2/openapi.yaml, `postableAlerts` and `gettableAlerts`.
"""

import asyncio
from typing import Any

import aiohttp

from collectors.notify import drill
from collectors.pull import reason

TIMEOUT_S = 10.0
ASK_AGAIN_S = 0.25
ASKED_MAX = 40  # an alert is looked at by the dispatcher within a moment


async def post_alerts(session: aiohttp.ClientSession, alertmanager_url: str, alerts: list[dict[str, Any]]) -> str:
    """Why Alertmanager didn't take them; empty if it did."""
    return (await _ask(session, "POST", _url(alertmanager_url), json=alerts))[0]


async def post_drill(alertmanager_url: str, link: str, now_ns: int) -> tuple[str, str]:
    """Sends an alert that is marked as a test and looks what becomes of it: (why it failed, what Alertmanager says)."""
    alert = drill(link, now_ns)
    url = _url(alertmanager_url)
    async with aiohttp.ClientSession() as session:
        trouble = await post_alerts(session, alertmanager_url, [alert])
        for _ in range(0 if trouble else ASKED_MAX):
            query = {"filter": f'burst_id="{alert["labels"]["burst_id"]}"'}
            trouble, found = await _ask(session, "GET", url, params=query)
            if trouble:
                break
            if found and found[0]["status"]["state"] != "unprocessed":
                return "", _fate(found[0])
            await asyncio.sleep(ASK_AGAIN_S)
    return trouble or f"{url} took the drill, but doesn't list it as an alert", ""


def _url(alertmanager_url: str) -> str:
    return alertmanager_url.rstrip("/") + "/api/v2/alerts"


def _fate(alert: dict[str, Any]) -> str:
    receivers = ", ".join(receiver["name"] for receiver in alert["receivers"])
    status = alert["status"]
    muted = [*status["silencedBy"], *status["inhibitedBy"]]
    muted += status.get("mutedBy") or []
    return f"state {status['state']}{f' (muted by {len(muted)})' if muted else ''}, routed to {receivers or 'nobody'}"


async def _ask(session: aiohttp.ClientSession, method: str, url: str, **more: Any) -> tuple[str, Any]:
    """(why it failed, the answer's JSON); a POST is answered without one."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with session.request(method, url, timeout=timeout, **more) as response:
            if response.status != 200:
                said = repr(await response.content.read(300))
                return f"{url} answers with status {response.status}: {said}", None
            return "", await response.json() if method == "GET" else None
    except TimeoutError:
        return f"{url} doesn't answer within {TIMEOUT_S:g} s", None
    except aiohttp.ClientConnectorError as error:
        return f"{url} can't be reached: {reason(error.os_error)}", None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"{url} went away: {' '.join(str(error).split())}", None
