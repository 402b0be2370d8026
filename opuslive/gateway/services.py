"""What exchanges work with, made once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.refusals import Refusals
from opuslive.gateway.upstreams.health import Health
from opuslive.gateway.upstreams.router import Router
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage


@dataclass(frozen=True, slots=True)
class Services:
    """What exchanges work with. ``now_ms`` is the clock of windows and records."""

    authenticator: Authenticator
    admission: Admission
    router: Router
    health: Health
    storage: Storage
    prices: Prices
    refusals: Refusals
    now_ms: Callable[[], int]
