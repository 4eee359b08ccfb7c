"""Evidence: how well alignment works on simulated robots that training has never seen.

Everything is measured in closed loop and paired: all methods act on the same robots from the same
start states with the same noise. `selfalign evaluate` runs it; docs/experiments.md is the protocol.

    cells.py        what is unseen in each scenario
    robots.py       robots of a cell, drawn from seeds; test and validation never share one
    settings.py     how much of everything; what a result depends on
    stage.py        simulated copies of one arm, reused robot after robot
    play.py         play as a robot would record it
    adapt.py        alignment and gates as the server runs them
    oracle.py       W fitted with expert labels
    finetune.py     LoRA and full fine-tuning on the same losses
    analytic.py     calculated from known camera and kinematics instead of aligned
    online.py       a W for one episode, learned while it runs
    bench.py        one robot set up, and what several methods need of it
    methods.py      base, aligned, oracle and everything they are compared with
    rollouts.py     many episodes at once
    trial.py        one robot: play, adapt, act
    records.py      what is kept of one robot, as JSON lines, so that a run goes on where it stopped
    evaluation.py   all robots of all cells
    paired.py       statistics of success before and after
    summary.py      robots to figures of a cell
    calibration.py  how well the gates tell a better W from a worse one
    curves.py       success against steps and seconds of play, as pictures
    tables.py       figures as text, Markdown and JSON
    command.py      `selfalign evaluate`

`selfalign ablate` varies the recipe and measures each variant in the same way:

    ablation_axes.py    what is varied, as data
    ablation_train.py   stage 1 of a variant, from the same start on the same recording
    ablation.py         a variant run, and its metrics
    ablation_table.py   variants as text and JSON
    ablation_plots.py   and as pictures
    peak_memory.py      the most memory that something takes
    ablate_command.py   `selfalign ablate`
"""
