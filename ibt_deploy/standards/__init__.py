"""Hospital standards: OMOP CDM 5.4, MEDS and FHIR R4 in, FHIR R4 out.

Events in long form (patient, time, code, value, unit) become hourly rows of the 40 variables. A table of the
package maps codes to variables and units (:mod:`~ibt_deploy.standards.events`); no mapping
file is needed. :mod:`~ibt_deploy.standards.exports` recognises an export by its content, one module per
standard converts it to a common form, :mod:`~ibt_deploy.standards.events` computes the hours, and
:mod:`~ibt_deploy.standards.fhir_answers` turns predictions into FHIR resources.
"""
