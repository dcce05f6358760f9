"""The guide's own API tests, with today's way to hand httpx an application."""

from __future__ import annotations

from pathlib import Path

from httpx import ASGITransport, AsyncClient

from taximeter.api.app import create_app
from taximeter.api.settings import ApiSettings
from taximeter.api.tokens import load_dev_key


async def test_create_subscription_and_allocate_credits(database_url: str, tmp_path: Path) -> None:
    """Needs Postgres alone: an organisation can be set up while the live side is away."""
    app = create_app(
        ApiSettings(
            database_url=database_url,
            redis_url="redis://127.0.0.1:1/0",
            dev_mode=True,
            data_dir=tmp_path,
        )
    )
    token = load_dev_key(tmp_path).mint("operator", ttl_s=60, roles=("system_admin",))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://test") as client,
    ):
        response = await client.post(
            "/api/v1/org-billing/subscriptions",
            json={
                "org_id": "test-api-org",
                "plan_code": "professional",
                "org_name": "Test API Org",
                "billing_email": "test@example.com",
                "initial_credits": 5000.0,
                "user_id": "test-user-api",
            },
            headers={"Cookie": f"session_token={token}"},
        )

        assert response.status_code == 200
        data = response.json()
        assert data["subscription"]["org_id"] == "test-api-org"
        assert data["credit_pool"]["total_credits"] == 5000.0

        response = await client.post(
            "/api/v1/org-billing/credits/test-api-org/allocate",
            json={"user_id": "test-user-api", "credits": 2000.0},
            headers={"Cookie": f"session_token={token}"},
        )

        assert response.status_code == 200
        data = response.json()
        assert data["allocation"]["allocated_credits"] == 2000.0
        assert data["pool_updated"]["available_credits"] == 3000.0
