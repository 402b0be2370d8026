"""Draw the pictures in the README: ``python -m tests.tools.pictures FOLDER``.

A gateway is filled with a made-up month of a small team's use, and Chromium looks at its pages.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from playwright.async_api import HttpCredentials, async_playwright

from opuslive.administration.password import hash_password
from opuslive.storage import open_storage
from opuslive.times import DAY_MS
from opuslive.usage import TokenCounts, UsageRecord
from tests.support.server import Server, gateway_config

PASSWORD = "correct horse battery staple"
WIDTH = 1180
#: The keys: name, requests a day, options.
TEAM = (
    (
        "alice",
        40,
        ("--limit", "4M tokens/5h", "--limit", "200 usd/month", "--limit", "8 concurrent"),
    ),
    ("bob", 22, ("--limit", "25 usd/month", "--limit", "4 concurrent", "--group", "friends")),
    ("carol", 12, ("--limit", "3M tokens/7d", "--expires", "45d", "--group", "friends")),
    ("nightly build", 30, ("--limit", "3M tokens/day", "--limit", "2 concurrent")),
    ("dave", 5, ("--limit", "20k output_tokens/7d", "--group", "friends")),
    ("erin (intern)", 3, ("--limit", "500k tokens/day", "--expires", "10d")),
)
#: Colour scheme, name, address, and the height of the window.
VIEWS: tuple[tuple[Literal["light", "dark"], str, str, int], ...] = (
    ("light", "usage", "/usage", 1360),
    ("light", "keys", "/admin/keys", 740),
    ("dark", "overview", "/admin", 1660),
)
MODELS = ("claude-opus-4-8", "claude-sonnet-4-5", "claude-haiku-4-5")


def _month(key_id: str, a_day: int, chance: random.Random) -> Iterator[UsageRecord]:
    """Requests of a month: fewer at week-ends, none at night, more and more of them."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    for age in range(30):
        weekend = datetime.fromtimestamp((now - age * DAY_MS) / 1000, UTC).weekday() >= 5
        growth = 1.4 - age / 40
        for _ in range(round(a_day * growth * (0.3 if weekend else 1) * chance.uniform(0.7, 1.2))):
            hours = abs(chance.gauss(0, 5)) % 14
            refused = chance.random() < 0.03
            size = math.exp(chance.gauss(0, 0.8))
            tokens = TokenCounts(
                input=round(1_500 * size),
                output=round(900 * size),
                cache_read=round(16_000 * size),
                cache_write_5m=round(1_200 * size),
            )
            yield UsageRecord(
                key_id,
                now - age * DAY_MS - round(hours * 3_600_000) - 90_000,
                chance.choices(MODELS, (5, 4, 2))[0],
                429 if refused else 200,
                None if refused else chance.randrange(900, 38_000),
                TokenCounts() if refused else tokens,
            )


async def _filled(folder: Path) -> tuple[Server, str]:
    """A server that is not running yet, and the key of one holder."""
    config = gateway_config(
        "https://api.anthropic.example",
        server={"public_url": "https://ai.example.com"},
        admin={"password_hash": hash_password(PASSWORD), "contact": "ops@example.com"},
        upstream={"name": "anthropic"},
        limits={"gateway": ["400 usd/month"], "groups": {"friends": ["90 usd/month"]}},
    )
    server = Server(folder, config)
    chance = random.Random(4)
    made = []
    for name, a_day, options in TEAM:
        key = await server.create_key(name, *options)
        made.append((key, list(_month(key["id"], a_day, chance))))
    storage = await open_storage(f"sqlite://{server.database}")
    for record in sorted((each for _, some in made for each in some), key=lambda each: each.time):
        storage.add_record(record)
    await storage.flush()
    await storage.close()
    return server, made[0][0]["key"]


async def _draw(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="opuslive-pictures-") as name:
        server, key = await _filled(Path(name))
        await server.start()
        try:
            await _look(server, key, target)
        finally:
            await server.stop()


async def _look(server: Server, key: str, target: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        credentials: HttpCredentials = {"username": "admin", "password": PASSWORD}
        for scheme, page_name, path, height in VIEWS:
            context = await browser.new_context(
                viewport={"width": WIDTH, "height": height},
                color_scheme=scheme,
                http_credentials=credentials,
            )
            page = await context.new_page()
            await page.goto(base + path)
            if path == "/usage":
                await page.fill("input[name=key]", key)
                await page.click("button[type=submit]")
                await page.wait_for_selector(".gauges")
            await page.screenshot(path=target / f"{page_name}.png")
            await context.close()
        await browser.close()


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(_draw(target))


if __name__ == "__main__":
    main()
