"""Hospital standards: OMOP CDM 5.4, MEDS and FHIR R4 in, FHIR R4 out.

Events in long form (patient, time, code, value, unit) become hourly rows of the 40 variables. Which code is
which variable, in which unit, is a table of the package (:mod:`~ibt_deploy.standards.events`); no mapping
file is needed. :mod:`~ibt_deploy.standards.exports` recognises an export by its content, one module for
each standard brings it into one form, :mod:`~ibt_deploy.standards.events` makes the hours, and
:mod:`~ibt_deploy.standards.fhir_answers` turns predictions into FHIR resources.
"""
