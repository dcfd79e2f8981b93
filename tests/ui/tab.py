"""The tab in a browser, as a person has it before them; and what browsers complain about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Frame, Locator, Request

    from tests.ui.runs import RunKey

__all__ = ["Open", "Tab"]

VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  const { violatedDirective, blockedURI, sourceFile, lineNumber } = event;
  window.violations.push(`${violatedDirective}: ${blockedURI} ${sourceFile}:${lineNumber}`);
});
"""


class Tab:
    """
    The page of one run, opened and read in a browser context of its own.

    :param framed: Whether to open it in Airflow's own page, as a click on the tab does.
    :param clock: Whether time in the page goes as the test says.
    :param expect: Statuses of answers that the browser will complain about, and rightly.
    """

    def __init__(
        self,
        browser: Browser,
        base_url: str,
        run: RunKey,
        *,
        token: str,
        framed: bool = False,
        width: int = 1280,
        height: int = 900,
        theme: Literal["light", "dark"] = "light",
        clock: bool = False,
        expect: tuple[int, ...] = (),
    ) -> None:
        self.run, self._expected = run, expect
        self.context = browser.new_context(
            base_url=base_url,
            viewport={"width": width, "height": height},
            color_scheme=theme,
            locale="en-GB",
            reduced_motion="reduce",
        )
        self.context.add_cookies([{"name": "_token", "value": token, "url": base_url}])
        self.context.add_init_script(VIOLATIONS)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self.page.on("request", self._note)
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        if clock:
            self.page.clock.install()
        self.framed = framed
        dag_id, run_id = (quote(part, safe="") for part in run)
        if framed:
            self.page.goto(f"/dags/{dag_id}/runs/{run_id}/plugin/fan-out")
            self.page.locator("iframe").wait_for()
            frame = self.page.locator("iframe").element_handle().content_frame()
            assert frame is not None
            self.frame: Frame = frame
        else:
            self.page.goto(f"/fan-out/dags/{dag_id}/page/{run_id}")
            self.frame = self.page.main_frame
        self.frame.locator("#groups[data-state]").wait_for(state="attached")

    def find(self, selector: str, **settings: Any) -> Locator:
        """Find what the page shows."""
        return self.frame.locator(selector, **settings)

    def group(self, title: str) -> Locator:
        """Find one group."""
        return self.find("section.group", has=self.find(".title", has_text=title))

    def rows(self, title: str) -> list[str]:
        """Return the names in the time line of a group, as far as they are in sight."""
        names: list[str] = self.group(title).locator(".row .name").all_inner_texts()
        return names

    def asked(self, what: str) -> list[Request]:
        """Return the requests for a kind of data: ``report``, ``items``, ``rerun``."""
        return [request for request in self.requests if urlsplit(request.url).path.split("/")[4:5] == [what]]

    def choose(self, title: str, **which: Any) -> Locator:
        """Click the first row of a group, or the first that fits; return what is shown of it."""
        self.group(title).locator(".row", **which).first.click()
        return self.group(title).get_by_role("region", name="Chosen branch")

    def open_dialog(self, title: str) -> Locator:
        """Open the dialog that runs again what failed in a group, and wait until its plan is there."""
        self.group(title).get_by_role("button", name="Run failed again…").click()
        expect(self.find("dialog .sum")).to_contain_text("will be cleared")
        return self.find("dialog")

    def take_complaints(self) -> list[str]:
        """Return what the browser complained about since: errors, violations of the policy, dialogs."""
        complaints = list(self.complaints)
        self.complaints.clear()
        for frame in self.page.frames:
            if "/fan-out/" in frame.url:
                complaints += frame.evaluate("window.violations.splice(0)")
        return complaints

    def close(self) -> list[str]:
        """Close it, and return what the browser has complained about."""
        complaints = self.take_complaints()
        self.context.close()
        return complaints

    def _note(self, request: Request) -> None:
        if "/fan-out/" in urlsplit(request.url).path:
            self.requests.append(request)

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _listen(self, message: ConsoleMessage) -> None:
        of_policy = "Content Security Policy" in message.text
        ours = "/fan-out/" in message.location.get("url", "") or not self.framed
        if not of_policy and (message.type != "error" or not ours):
            return  # Airflow's own
        if any(f"status of {status}" in message.text for status in self._expected):
            return
        self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")


Open = Callable[..., Tab]
"""Opens a run in a tab."""
