"""Sections "Secrets" and "While it trains" of docs/reliability.md."""

from tests.planted.bug import Protection

SECRETS = (
    Protection(
        "secrets: an address keeps its password", "flows/runtime/credentials.py",
        "    environment[variable] = urlunsplit(parts._replace(netloc=host))\n", "",
        promise="User name and password in the addresses", test="test_user_info_moves_to_the_variables_of_each_tool",
    ),
    Protection(
        "secrets: a message shows the secrets of the environment", "dmd/redaction.py",
        "            text = text.replace(value, HIDDEN)\n", "            pass\n",
        promise="No error and no log of a flow", test="test_no_message_shows_a_secret_of_the_environment",
    ),
    Protection(
        "secrets: a message shows the password of an address", "dmd/redaction.py",
        '    text = USER_INFO.sub(f"{HIDDEN}@", text)\n', "",
        promise="No error and no log of a flow", test="test_redaction_hides_user_info_only",
    ),
    Protection(
        "secrets: the address of a store is shown with its password", "flows/registry/store.py",
        "server = redact(address)", "server = address",
        promise="No error and no log of a flow", test="test_the_password_of_a_database_is_not_shown",
    ),
    Protection(
        "secrets: addresses keep their passwords in a run", "flows/__init__.py",
        "split_credentials()\n", "",
        promise="A run stores none of them",
        test="test_an_address_with_a_password_works_and_the_password_is_stored_nowhere",
    ),
    Protection(
        "secrets: a password among the parameters", "dmd/config.py",
        "if redact(self.url) != self.url:", "if not self.url:",
        promise="A password in `data.url`", test="test_a_password_in_the_parameters_is_refused",
    ),
    Protection(
        "watching: an error of MLflow ends the thread", "flows/live/attempts.py",
        "except Exception as e:  #", "except KeyError as e:  #",
        promise="MLflow and Prefect neither stop nor delay",
        test="test_a_store_that_is_away_loses_no_row_and_stops_nothing",
    ),
    Protection(
        "watching: rows count as sent before they are", "flows/live/sending.py",
        "        rows = feed.choose_new(part[0])\n",
        "        rows = feed.choose_new(part[0])\n        feed.accept(*part)\n",
        promise="A server that is killed while",
        test="test_a_training_is_watched_while_its_server_is_killed_and_started_again",
    ),
    Protection(
        "watching: runs of flows that were killed are left", "flows/live/reporter.py",
        "        self.attempt(lambda: settle_abandoned(self.job.root))\n", "",
        promise="A flow that was killed",
        test="test_other_parameters_make_another_run_which_settles_that_of_a_killed_flow",
    ),
    Protection(
        "watching: a thread logs after the end of its run", "flows/live/reporter.py",
        "        is_open.clear()\n", "        pass\n",
        promise="A thread that outlives", test="test_a_thread_that_outlives_a_failed_flow_logs_nothing",
    ),
)  # fmt: skip
