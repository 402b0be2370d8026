"""What templates may know."""

from __future__ import annotations

from opuslive.config.alerts import AlertsConfig
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import AdminConfig, Config, UpstreamConfig
from opuslive.web.pages.templating import Templates
from tests.support.admin_pages import HASH
from tests.support.clock import NOW

SECRETS = ("canary-of-a-credential", "https://canary.example/hook", HASH)


def test_no_template_can_reach_a_secret_of_the_configuration() -> None:
    credential, webhook, password_hash = SECRETS
    upstream = UpstreamConfig(name="p", base_url="https://api.example.com", api_key=credential)
    config = Config(
        admin=AdminConfig(password_hash=password_hash),
        alerts=AlertsConfig(webhook=webhook),
        upstreams=(upstream,),
    )
    templates = Templates(ConfigInForce(config, NOW), None, lambda: False)
    known = [*templates._environment.globals.values(), *templates._configured().values()]
    for value in known:
        fields = getattr(type(value), "__slots__", ())
        shown = [repr(getattr(value, field, None)) for field in (fields or ())] + [repr(value)]
        assert not any(secret in text for secret in SECRETS for text in shown)
    assert not any(isinstance(value, Config) for value in known)
