"""What a bundle says about itself in words: what it is for, what not, and where it must be doubted."""

from __future__ import annotations

from ibt_deploy.predictions import NOTICE

INTENDED_USE = {
    "arrhythmia": (
        f"{NOTICE} For research on the classification of resting 12-lead ECGs of adults: it suggests which "
        "of the 26 scored diagnostic statements of the PhysioNet/CinC Challenge 2021 a reader would have "
        "made, with a calibrated probability each. Intended users are researchers and clinical engineers who "
        "validate it on their own recordings first (`ibt evaluate`)."
    ),
    "sepsis": (
        f"{NOTICE} For research on early warning: for every hour of a stay in intensive care it estimates, "
        "from that hour and earlier ones alone, the probability that the hour lies later than six hours "
        "before the onset of sepsis as the PhysioNet/CinC Challenge 2019 defines it. Intended users are "
        "researchers and clinical engineers who validate it on their own patients first (`ibt evaluate`)."
    ),
}
NOT_INTENDED = {
    "arrhythmia": (
        "diagnosis, triage or treatment of patients, with or without a reader",
        "emergency decisions: ischaemia and infarction are not among the classes",
        "monitoring: telemetry, Holter, exercise and single-lead recordings",
        "absence of a finding as evidence of absence",
    ),
    "sepsis": (
        "diagnosis, triage or treatment of patients, or withholding any of these",
        "wards, emergency departments and operating theatres",
        "onset of sepsis within 4 h of admission and stays shorter than 8 h, which the data leave out",
        "hours after the 336th of a stay, which are left out",
    ),
}
NOT_EVALUATED_ON = {
    "arrhythmia": (
        "hospitals, countries and devices other than those of the sources named",
        "children",
        "paced rhythms as a group of their own",
        "recordings with misplaced or missing leads (both are accepted with a warning where they can be "
        "noticed)",
        "prospective use",
    ),
    "sepsis": (
        "hospitals other than the two (A and B, both in the USA) of the public training sets",
        "children",
        "years, case mix and measuring habits other than theirs",
        "prospective use, and any effect on patients",
    ),
}
LIMITS = {
    "arrhythmia": (
        "Labels are one set per recording, of mixed provenance (machine, one reader or several): agreement "
        "with them has a ceiling well below 1.",
        "Classes and sources are entangled, so that part of what looks like diagnosis may be recognition of "
        "the source. In the public sets Ningbo labels no AF but thousands of AFL; PTB-XL labels no PVC "
        "although over a thousand of its recordings carry the unscored 'ventricular ectopics'; PRWP occurs "
        "only in Ningbo, most LPR in PTB-XL, most Brady in CPSC-Extra; CPSC labels neither axis nor QAb nor "
        "LQRSV.",
        "A class that a source does not label counts as absent there, as in the official evaluation: absent "
        "is not negative. Read figures per source beside the pooled ones.",
        "Absolute voltage is unknown where a recording's amplitude is approximate; its LQRSV is left out of "
        "training and of every figure.",
        "Macro means are taken over the classes that are evaluable and have at least five positives in the "
        "set, so means over different sets are not comparable.",
        "Attention of the network is no explanation for a reader and none is shown.",
    ),
    "sepsis": (
        "Whether and when something is measured is an input and informative: an order for lactate is a "
        "suspicion. Such habits belong to a hospital. Challenge entries that scored 0.43 on hospitals A and "
        "B fell to about -0.1 on a third one.",
        "Length of stay (ICULOS), time before admission and the unit are inputs and strong shortcuts.",
        "SepsisLabel turns 1 six hours before onset by definition. Stays that are positive from their first "
        "hour (their number is above) leave nothing to warn of, and their true onset may have been earlier.",
        "Most alarms are false: 0.1 to 0.3 of alarms being right is what published models of this kind "
        "reach.",
        "Published external validations of a widely used commercial model found AUROC 0.63 (Wong et al. "
        "2021). Internal figures such as those above are no promise for another hospital.",
        "Units in the public files are partly wrong in their documentation; the contract states the units "
        "used here.",
    ),
}
