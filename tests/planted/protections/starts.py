"""Section "Before the first stage" of docs/reliability.md."""

from tests.planted.bug import Protection

STARTS = (
    Protection(
        "begin: no folder is tried", "flows/preflight/places.py",
        "if reason := _try_to_write(folder):", 'if reason := "":',
        promise="Every folder that the run writes", test="test_each_folder_that_the_run_writes_must_be_writable",
    ),
    Protection(
        "begin: a disk of any size will do", "flows/preflight/room.py",
        "if disk.total and total > disk.free:", "if not disk.total:",
        promise="Every folder that the run writes", test="test_a_disk_that_is_too_small_is_named_with_the_amount",
    ),
    Protection(
        "begin: nobody asks whether a server answers", "flows/registry/store.py",
        'if reason := find_silence(address, "/health"):', 'if reason := "":',
        promise="A server that does not answer", test="test_a_server_that_is_not_there_is_named_at_once",
    ),
    Protection(
        "begin: a server that says nothing is awaited for ten minutes", "flows/runtime/reach.py",
        "TIMEOUT = 10.0", "TIMEOUT = 600.0",
        promise="A server that does not answer", test="test_a_server_that_says_nothing_is_named_in_time",
    ),
    Protection(
        "begin: a name that MLflow refuses without its key", "flows/registry/store.py",
        'if e.error_code == "INVALID_PARAMETER_VALUE":', "if not e.error_code:",
        promise="MLflow takes the names", test="test_a_name_that_mlflow_refuses_is_named_with_its_key",
    ),
    Protection(
        "begin: an experiment has the name of its row", "flows/runtime/names.py",
        're.sub(r"[^A-Za-z0-9_-]+", "_", word)[:LENGTH]', "word[:LENGTH]",
        promise="Names of presets, rows and classes", test="test_git_and_prefect_accept_the_name",
    ),
    Protection(
        "begin: a figure has the name of its class", "flows/registry/figures.py",
        're.sub(r"[^\\w.\\- :]", "_", part)[:NAME_LENGTH]', "part[:NAME_LENGTH]",
        promise="Names of presets, rows and classes", test="test_mlflow_accepts_the_name",
    ),
    Protection(
        "begin: a teacher is loaded and not run", "flows/preflight/teachers.py",
        '        probe(teacher, folder, Images([Shard.find(file, "images")]), device)\n', "        pass\n",
        promise="A teacher in a folder of at most", test="test_a_teacher_that_cannot_run_is_refused",
    ),
    Protection(
        "begin: pipes and devices among the inputs", "flows/preflight/inputs.py",
        "    if not is_file:\n"
        '        return "neither a file nor a folder (a pipe, socket or device); move it away"\n', "",
        promise="A file that DVC cannot hash", test="test_what_dvc_cannot_read_is_named",
    ),
    Protection(
        "begin: links to folders are passed by", "flows/preflight/inputs.py",
        "if links := list_links(path):", "if links := list[Path]():",
        promise="A file that DVC cannot hash", test="test_a_link_to_a_folder_is_noted",
    ),
    Protection(
        "begin: an experiment with other values is taken for the member's", "flows/ablation/experiment.py",
        "is not None and _find_difference(root, member) is None", "is not None",
        promise="A member of an ablation", test="test_a_member_runs_with_the_values_of_its_row_to_the_letter",
    ),
    Protection(
        "begin: DVC replaces a value of the user", "flows/pipeline/changes.py",
        'if any(isinstance(v, str) and "${" in v for v', "if any(v is None for v",
        promise="A mistake that a check or an early stage finds",
        test="test_it_is_refused_in_one_line_and_in_time[3 a value that DVC would replace]",
    ),
    Protection(
        "begin: a tokenizer without a length cuts no caption", "dmd/teachers/complete.py",
        "            tokenizer.model_max_length = min(tokenizer.model_max_length, positions)\n", "            pass\n",
        promise="Valid inputs that earlier versions refused",
        test="test_it_works_up_to_where_it_failed[2 a tokenizer without model_max_length]",
    ),
    Protection(
        "begin: the checks of networks do not begin before the server", "flows/distill.py",
        "    begin_before(run)  #", "    #",
        promise="A server that is needed starts", test="test_the_checks_that_take_seconds_run_while_the_server_starts",
    ),
    Protection(
        "begin: an error of the server's thread is lost", "flows/services/temporary_server.py",
        "self.url.set_exception(e)", 'self.url.set_result("http://127.0.0.1:9/api")',
        promise="A server that is needed starts",
        test="test_an_error_of_the_server_is_raised_when_the_setup_is_finished",
    ),
    Protection(
        "begin: the variables of a git hook lead to another repository", "flows/runtime/environment.py",
        "        os.environ.pop(name, None)\n", "        pass\n",
        promise="A git hook's variables", test="test_the_whole_flow_in_a_hard_environment",
    ),
    Protection(
        "begin: data in a folder are not listed", "flows/preflight/data.py",
        "    thread.start()\n", "    return\n",
        promise="Data in a folder are listed", test="test_a_mistake_is_one_line_for_each_kind_of_data",
    ),
    Protection(
        "begin: a listing of any length is awaited", "flows/preflight/data.py",
        "thread.join(PATIENCE)", "thread.join()",
        promise="Data in a folder are listed", test="test_a_listing_that_takes_long_is_left_to_the_stage",
    ),
)  # fmt: skip
