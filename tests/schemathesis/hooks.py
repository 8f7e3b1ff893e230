"""What schemathesis must leave alone."""

import os

import schemathesis


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    """Its own key: revoked, it would open nothing any more, and every later test would say 401."""
    return path_parameters is None or path_parameters.get("key_id") != os.environ["CONSENTD_OWN_KEY_ID"]
