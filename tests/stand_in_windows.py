"""A matplotlib backend whose windows exist only in memory: what a user does to them is scripted by the tests."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

#: What happens while a window answers the user, one step per pause or per blocking show.
user: list[Callable[[], object]] = []
#: Titles of the windows that were shown, in order.
shown: list[str] = []
#: How often a window was asked to draw itself anew.
redraws: list[str] = []


class Manager(FigureManagerBase):
    title = ""

    def set_window_title(self, title: str) -> None:
        self.title = title

    def show(self) -> None:
        shown.append(self.title)

    @classmethod
    def start_main_loop(cls) -> None:
        user.pop(0)()


class FigureCanvas(FigureCanvasAgg):
    required_interactive_framework = "tk"
    manager_class = Manager

    def draw_idle(self, *args: object, **kwargs: object) -> None:
        redraws.append(self.manager.title)
        super().draw_idle()

    def start_event_loop(self, timeout: float = 0) -> None:
        user.pop(0)()


FigureManager = Manager
