"""What exchanges work with, made once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.settlement import Recorder
from opuslive.gateway.upstreams.health import Health
from opuslive.gateway.upstreams.router import Router


@dataclass(frozen=True, slots=True)
class Services:
    """What exchanges work with."""

    authenticator: Authenticator
    admission: Admission
    router: Router
    health: Health
    recorder: Recorder
