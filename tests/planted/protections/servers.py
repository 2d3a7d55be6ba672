"""Section "Servers" of docs/reliability.md."""

from tests.planted.bug import Protection

SERVERS = (
    Protection(
        "servers: an origin is not compared with the server's own", "flows/services/web.py",
        '        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):\n'
        '            return f"origin {origin[:100]!r} is another site"\n', "",
        promise="A page of another site", test="test_a_page_of_another_site_starts_no_run_and_reads_nothing",
    ),
    Protection(
        "servers: no request needs the token", "flows/services/web.py",
        "if not self.is_known(headers):\n            return await refuse(scope, send, 401,",
        "if not self.token:\n            return await refuse(scope, send, 401,",
        promise="A request without the token", test="test_any_other_request_is_refused_and_logged",
    ),
    Protection(
        "servers: Prefect's server without the check", "flows/services/web.py",
        "return guard(create_app())", "return create_app()",
        promise="A request without the token",
        test="test_a_request_without_the_token_or_for_another_host_is_refused",
    ),
    Protection(
        "servers: the bytes of a body are not counted", "flows/services/web.py",
        "is_too_large = limit is not None and size > limit", "is_too_large = False",
        promise="A body of more than 64 MiB", test="test_a_body_of_unknown_length_is_cut_off",
    ),
    Protection(
        "servers: the length of a body that a request states is not read", "flows/services/web.py",
        "if limit is not None and not (is_number and int(length[:20]) <= limit):", "if not is_number:",
        promise="A body of more than 64 MiB", test="test_an_oversized_body_is_refused_before_it_is_read",
    ),
    Protection(
        "servers: deploy's MLflow answers for another host", "deploy/compose.yaml",
        "ONESTEP_HOSTS: ${MLFLOW_HOSTS:-127.0.0.1:5000,mlflow:5000}",
        "ONESTEP_HOSTS: ${MLFLOW_HOSTS:-127.0.0.1:5000,mlflow:5000},evil.example",
        promise="The same holds for the commands", test="test_the_servers_of_deploy_refuse_the_same[mlflow-/health]",
    ),
    Protection(
        "servers: a token that others can read is used", "flows/services/access.py",
        "if file.stat().st_mode & 0o077:", "if file.stat().st_mode & 0o002:",
        promise="Only the user can read the token", test="test_the_token_is_made_once_and_only_its_owner_can_read_it",
    ),
    Protection(
        "servers: the token goes to the server that a variable names", "flows/services/servers.py",
        "if os.environ.setdefault(variable, url) == url:", "if os.environ.setdefault(variable, url):",
        promise="Only the user can read the token",
        test="test_a_run_uses_the_local_servers_unless_variables_name_others",
    ),
    Protection(
        "servers: a temporary server without a token", "flows/services/prefect_setup.py",
        '("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")', '("PREFECT_API_AUTH_STRING",)',
        promise="The temporary Prefect server", test="test_the_temporary_server_of_a_run_needs_its_token",
    ),
)  # fmt: skip
