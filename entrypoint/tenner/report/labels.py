"""Texts that the page shows for the program's own identifiers."""

from collections.abc import Mapping

from tenner.core.messages import Message, msg

STATES: Mapping[str, Message] = {
    "training": msg("Training"),
    "trained": msg("Trained"),
    "delivered": msg("Delivered and verified"),
    "not_delivered": msg("Trained, not delivered: the files are still in the run's folder"),
    "stopped": msg("Stopped; the state is saved"),
    "budget": msg("Budget or deadline reached; the best state is saved"),
    "failed": msg("Failed"),
}

PHASES: Mapping[str, Message] = {
    "machine": msg("looking at the machine"),
    "loading": msg("loading the base model"),
    "caching latents": msg("encoding the images"),
    "caching captions": msg("encoding the captions"),
    "dataset": msg("reading the dataset"),
    "compiling": msg("compiling"),
    "capturing": msg("capturing CUDA graphs"),
    "checking": msg("checking"),
    "sampling": msg("drawing samples"),
    "measuring": msg("measuring what was learnt"),
    "delivering": msg("delivering"),
}
"""What a run does beside training, by the name of its event."""

NOTICES: Mapping[str, Message] = {
    "error": msg("What went wrong"),
    "ended": msg("Why it ended"),
    "warning": msg("Warnings"),
    "note": msg("Worth knowing"),
}

READINGS: Mapping[str, Message] = {
    "settled": msg("The loss fell and then settled, as a healthy run does."),
    "falling": msg("The loss is still falling: the run ended before it settled."),
    "falling_now": msg("The loss is still falling."),
    "fell": msg("The loss fell; so few steps do not show whether it has settled."),
    "flat": msg("The loss is flat: it did not fall by an amount that could be seen."),
    "rising": msg(
        "The loss rose again after its lowest stretch: a sign of overfitting or of too high a rate."
    ),
    "nan": msg("The loss stopped being a number (NaN)."),
    "noisy": msg("Too noisy to judge: single steps differ more than any trend."),
    "short": msg("Too few steps to read the curve."),
}
"""What the shape of the loss curve means."""

_COMPARE = msg("Compare the checkpoints of earlier epochs: the last is not always the best.")

ADVICE: Mapping[str, tuple[Message, ...]] = {
    "settled": (_COMPARE,),
    "falling": (
        msg(
            "If the concept is still weak in the samples, train more epochs; the run can be"
            " resumed."
        ),
    ),
    "fell": (_COMPARE,),
    "flat": (
        msg("If the samples are weak, try a learning rate of 2e-4 or 3e-4."),
        msg("Check that the captions describe the images and hold the trigger phrase."),
    ),
    "rising": (
        msg("Look at an earlier checkpoint, and train fewer epochs."),
        msg("Try a smaller network_dim."),
        msg("Add more varied images."),
    ),
    "nan": (
        msg(
            "Lower the learning rate, or train in bf16 or fp32; the last finite checkpoint is in"
            " the run's folder."
        ),
    ),
    "noisy": (msg("Judge by the samples alone."),),
}
"""What the guide recommends for each shape of curve."""

NEXT_STEPS: Mapping[str, Message] = {
    "deliver": msg(
        "Deliver the files: run <code>tenner deliver</code> on the run's folder; nothing"
        " is trained again."
    ),
    "resume": msg("Start the same command again: the run resumes from its last state."),
    "strength": msg(
        "Choose the lowest strength at which the concept is plain; 0.7 to 0.8 is usual."
    ),
    "compare": msg("Compare epochs before you keep the last one."),
    "rights": msg(
        "Before you publish, check the base model's licence and your rights to the training images."
    ),
}

PARTS: Mapping[str, Message] = {
    "unet": msg("U-Net"),
    "transformer": msg("transformer"),
    "text_encoder": msg("text encoder"),
    "text_encoder_2": msg("text encoder 2"),
    "text_encoder_3": msg("text encoder 3"),
    "other": msg("other"),
}

WEIGHTS: Mapping[str, Message] = {
    "none": msg("learnt nothing"),
    "little": msg("too little to be seen"),
    "usual": msg("as trained LoRAs"),
    "much": msg("much: little of the base is left"),
    "unmeasured": msg("changed; not compared with the base"),
}
"""Judgements of a part's update."""

GROUPS: Mapping[str, Message] = {
    "without the trigger": msg("Without the trigger: the LoRA should change little"),
    "trigger at other positions": msg("Trigger at other positions in the prompt (strength 0.8)"),
    # The name in files of earlier versions.
    "trigger at other places": msg("Trigger at other positions in the prompt (strength 0.8)"),
    "concept in the negative prompt": msg(
        "The concept in and out of the negative prompt (strength 0.8)"
    ),
}

COLUMNS: Mapping[str, Message] = {
    "the finished LoRA": msg("the finished LoRA"),
    "0 (base)": msg("0 (base)"),
    "at the start": msg("at the start"),
    "in the middle": msg("in the middle"),
    "at the end": msg("at the end"),
    "in the prompt": msg("in the prompt"),
    "in neither": msg("in neither"),
    "in the negative prompt": msg("in the negative prompt"),
}

FACTS: Mapping[str, Message] = {
    "images seen in an epoch": msg("images seen in an epoch"),
    "buckets": msg("buckets"),
    "left out": msg("left out"),
    "corrected": msg("corrected"),
    "held out": msg("held out"),
    "base": msg("base"),
    "cores": msg("cores"),
    "memory": msg("memory"),
    "system": msg("system"),
    "card": msg("card"),
    "driver": msg("driver"),
    "engine": msg("engine"),
    "device": msg("device"),
    "batch size": msg("batch size"),
    "accumulation": msg("accumulation"),
    "learning rate": msg("learning rate"),
    "checkpointing": msg("checkpointing"),
    "cost": msg("cost"),
    "bucket sides": msg("bucket sides"),
    "bucket steps": msg("bucket steps"),
    "rank": msg("rank"),
    "preset": msg("preset"),
    "text encoder": msg("text encoder"),
    "noise offset": msg("noise offset"),
    "clip skip": msg("clip skip"),
    "VAE": msg("VAE"),
    "prediction": msg("prediction"),
    "precision": msg("precision"),
    "attention": msg("attention"),
    "optimizer": msg("optimizer"),
    "workers": msg("workers"),
    "steps": msg("steps"),
    "warm-up": msg("warm-up"),
    "time": msg("time"),
    "training": msg("training"),
    "samples": msg("samples"),
}
"""Names of what was decided, of the machine and of the dataset."""

EXPLAINED: Mapping[str, Message] = {
    "images seen in an epoch": msg("each image as often as its folder's repeats"),
    "buckets": msg("the sizes, in pixels, that images are trained at: each in the nearest shape"),
    "held out": msg("not trained on, to see how the LoRA does on what it never saw"),
    "corrected": msg("read in spite of a fault in the file"),
    "batch size": msg("images that are learnt from at once"),
    "learning rate": msg("how far the part that draws is moved in one update"),
    "accumulation": msg("batches that are added up before the weights change"),
    "checkpointing": msg("saves memory on the card by computing some values twice"),
    "precision": msg("how many bits a number has while it is computed with"),
    "attention": msg("the program part that relates words and places in the image"),
    "optimizer": msg("the rule by which the weights are changed"),
    "bucket sides": msg("the shortest and the longest side that an image is trained at"),
    "bucket steps": msg("sides of training sizes are multiples of this"),
    "rank": msg("how much the LoRA can hold, and its scale"),
    "preset": msg("which modules of the base are adapted"),
    "text encoder": msg("the learning rate of the part that reads captions"),
    "noise offset": msg("helps with very dark and very bright images"),
    "clip skip": msg("how many of the text encoder's last layers are left out"),
    "VAE": msg("the part that turns images into what is trained on, and back"),
    "prediction": msg("what the base was trained to guess"),
    "warm-up": msg("steps over which the learning rate rises to its full value"),
    "min_bucket_reso": msg("the shortest side that an image is trained at, in pixels"),
    "max_bucket_reso": msg("the longest side that an image is trained at, in pixels"),
    "bucket_reso_steps": msg("sides of training sizes are multiples of this, in pixels"),
    "bucket_no_upscale": msg("small images are not enlarged"),
    "network_dim": msg("the rank: how much the LoRA can hold"),
    "network_alpha": msg("the LoRA's scale, beside the rank"),
    "unet_lr": msg("the learning rate of the part that draws"),
    "text_encoder_lr": msg("the learning rate of the part that reads captions"),
    "min_snr_gamma": msg("weighs steps with little noise less, by this bound"),
    "validation_split": msg("the share of images that is not trained on, to measure with"),
}
"""Explanations shown below names that not everybody knows."""
