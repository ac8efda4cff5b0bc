"""From rows to answers on a server that has nothing yet: uploads rows that are written here, pre-trains a tiny base model
on their texts, fine-tunes it, and classifies texts that it has not seen. Takes less than a minute on two cores.

    python train.py

The server is at TASUKI_SERVER, else 127.0.0.1:8500; TASUKI_TLS_CA and TASUKI_TOKEN are heeded, too. The models are called example-base and example-mood.
"""

import itertools

import tasuki

THINGS = ("the tea", "the train", "the soup", "the window", "the letter", "the garden", "the shoe", "the song")
DAYS = ("today", "on Monday", "last week", "this morning", "in March", "on the way home")
MOODS = {
    "glad": ("was lovely", "made me smile", "was better than ever"),
    "sad": ("was broken", "made me cry", "was worse than ever"),
}


def rows(things: tuple[str, ...]) -> list[tuple[str, str]]:
    """Every thing on every day in every mood."""
    return [
        (f"{thing} {what} {day}", mood)
        for thing, day in itertools.product(things, DAYS)
        for mood, whats in MOODS.items()
        for what in whats
    ]


def main() -> None:
    with tasuki.Client() as client:
        train = client.datasets.upload(rows(THINGS[:6]), display_name="mood, train")
        valid = client.datasets.upload(rows(THINGS[6:7]), display_name="mood, valid")

        pretraining = {
            "model": "example-base",
            "pretraining": {
                "datasets": [train.name],
                "vocabulary_size": 300,
                "required_texts": [*MOODS, *THINGS],
                "recipe": {"steps": 60, "batch_size": 16, "max_input_tokens": 32},
            },
        }
        base = client.jobs.wait(client.jobs.create(pretraining).name, progress=True)

        fine_tuning = {
            "model": "example-mood",
            "fine_tuning": {
                "base_model_version": base.model_version,
                "tasks": [
                    {
                        "name": "mood",
                        "labels": [{"name": mood} for mood in MOODS],
                        "train_dataset": train.name,
                        "valid_dataset": valid.name,
                    }
                ],
                "recipe": {"steps": 150, "batch_size": 16, "learning_rate": 1e-3, "max_input_tokens": 32},
            },
        }
        job = client.jobs.wait(client.jobs.create(fine_tuning).name, progress=True)
        for evaluation in job.evaluations:
            print(f"{tasuki.v1.Evaluation.Method.Name(evaluation.method)}: accuracy {evaluation.accuracy:.3f}")

        unseen = [text for text, _ in rows(THINGS[7:])[::7]]
        print(client.classify(unseen, model=job.model_version))


if __name__ == "__main__":
    main()
