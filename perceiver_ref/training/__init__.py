"""Training the small models of `recipes`.

recipe       what a recipe is: Task, Settings, Stage, Recipe; what a run is given: Options
loop         the whole of training: batch, gradients, optimizer, metrics, evaluation, checkpoints
state        what a checkpoint holds, and writing and reading it
metrics      metrics.jsonl: one line a logged step, none twice after resuming
progress     rate, loss and time left, by tqdm or as plain lines
interrupts   Ctrl-C, SIGTERM, SIGHUP: the step under way is finished and saved
lock         one run in a folder
turns        runs in several threads of a process take turns
result       result.json, curves and what the task shows
pictures     curves.png and attention maps, with the extra `plot`
recipes/     the recipes themselves, and their data
"""
