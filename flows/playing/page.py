"""The page of Gradio: what to draw on the left, the student's and the teacher's pictures on the right."""

import html
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] # an extra

from dmd.errors import UserError
from flows.playing.models import Drawing, Pair

TITLE = "One-step generator"
SHOWN = 8  # labels that are chosen when the page opens
TEACHER_STEPS = 50  # when the page opens


def build_page(pair: Pair) -> gr.Blocks:
    """Return the page of a student and its teacher."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Row():
            with gr.Column(scale=1):
                words = _ask_for_words(pair)
                images = gr.Slider(1, 8, value=1 if pair.prompts else 4, step=1, label="Images of each")
                seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                student = gr.Slider(
                    1, max(pair.student_steps, 2), value=pair.student_steps, step=1, label="Steps of the student",
                    visible=pair.student_steps > 1,
                )  # fmt: skip
                teacher = gr.Slider(
                    1, max(pair.teacher_steps, 2), value=min(TEACHER_STEPS, pair.teacher_steps), step=1,
                    label="Steps of the teacher (DDIM)", visible=pair.teacher is not None,
                )  # fmt: skip
                button = gr.Button("Draw", variant="primary")
            with gr.Column(scale=2), gr.Row():
                outputs = [*_show("Student"), *(_show("Teacher") if pair.teacher else [])]
        button.click(
            lambda *values: answer(pair, *values),
            [words, seed, images, student, teacher],
            outputs,
            api_visibility="private",
            concurrency_limit=1,
        )
    return page


def answer(
    pair: Pair, words: list[str] | str | None, seed: float | None, images: int, student: int, teacher: int
) -> list[Any]:
    """Draw what the page asks for: picture and text of the student, then those of the teacher.

    Raises gr.Error, which the page shows as HTML, for a value that is not allowed.
    """
    lines = words.splitlines() if isinstance(words, str) else words or []
    try:
        drawings = pair.draw(lines, int(seed or 0), int(images), int(student), int(teacher))
    except UserError as e:
        raise gr.Error(html.escape(str(e), quote=False), print_exception=False) from e
    return [value for drawing in drawings for value in (drawing.picture, describe(drawing))]


def describe(drawing: Drawing) -> str:
    """Text with the seconds of a picture and the network passes per image."""
    passes = "1 network pass" if drawing.passes == 1 else f"{drawing.passes} network passes"
    return f"{drawing.seconds:.3g} s, {passes} per image"


def _ask_for_words(pair: Pair) -> Any:
    """Return the input of the page: a box for prompts, or a list of labels, hidden if the images have none."""
    if pair.prompts:
        return gr.Textbox("\n".join(pair.prompts[:2]), lines=4, label="Prompts, one in each line")
    choices = [(f"{i} {name}", str(i)) for i, name in enumerate(pair.classes)]
    first = [value for _, value in choices[:SHOWN]]
    return gr.Dropdown(choices, value=first, multiselect=True, label="Labels", visible=bool(choices))


def _show(name: str) -> tuple[Any, Any]:
    """Return the outputs of the page for one network: its picture, and the text below."""
    with gr.Column():
        picture = gr.Image(label=name, format="png", type="pil", interactive=False, buttons=["download", "fullscreen"])
        return picture, gr.Markdown()
