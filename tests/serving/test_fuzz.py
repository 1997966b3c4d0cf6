"""Requests made from the API's own description: never a 500, always what the description promises."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tiny_server import tiny_model

from longview.serving.app import create_app
from longview.serving.served import Served
from longview.serving.settings import Settings

APP = create_app([Served.of(tiny_model())], Settings(max_upload_mb=1))
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


# 405 is the router's word on methods that no operation describes
@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
def test_the_api_keeps_its_word(case):
    response = case.call()
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance]
    case.validate_response(
        response, checks=[*checks, status_code_conformance] if response.status_code != 405 else checks
    )
