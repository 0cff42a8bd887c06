"""Phrases of the simulated reports. Slots: {where}, {side}, {lobe}, {size}, {count}, {territory}, {grade}, {pattern}.

`FINDINGS` describe a positive finding, `DETAILS` add to it, `IMPRESSIONS` name it; negations and normal statements say
which classes they exclude, so that a report never contradicts its labels.
"""

from __future__ import annotations

FINDINGS: dict[str, tuple[str, ...]] = {
    "acute hemorrhage": (
        "There is an acute intraparenchymal hemorrhage in the {where} measuring {size}.",
        "Acute hematoma centered in the {where}, {size}, with T2 shortening and surrounding edema.",
        "A {size} focus of acute hemorrhage is seen in the {where}, dark on T2 and SWI.",
        "Large area of recent bleeding in the {where} with susceptibility and perilesional edema, {size}.",
        "New acute parenchymal bleed of the {where}, approximately {size} in diameter.",
    ),
    "subacute hemorrhage": (
        "There is a subacute hematoma in the {where} with intrinsic T1 hyperintensity, {size}.",
        "Subacute hemorrhage in the {where} measuring {size}, bright on T1 and T2 with a dark rim.",
        "A {size} T1 bright lesion in the {where} consistent with methemoglobin of a subacute bleed.",
        "Evolving parenchymal hemorrhage of the {where}, {size}, now in the subacute stage.",
    ),
    "chronic hemorrhage": (
        "Chronic hemorrhagic cavity in the {where} with a hemosiderin rim, {size}.",
        "There is an old hemorrhage in the {where} with hemosiderin staining.",
        "Sequelae of prior hemorrhage in the {where}: fluid-filled cleft with susceptibility rim, {size}.",
        "Remote hematoma of the {where} lined by hemosiderin, without edema.",
    ),
    "cerebral microbleeds": (
        "Multiple {pattern} cerebral microbleeds are present on susceptibility imaging.",
        "At least {count} punctate foci of susceptibility in a {pattern} distribution, consistent with microhemorrhages.",
        "Numerous tiny {pattern} microbleeds with blooming on SWI.",
        "Scattered cerebral microhemorrhages, predominantly {pattern}, approximately {count} in number.",
    ),
    "acute infarction": (
        "There is restricted diffusion in the {where} compatible with acute infarction in the {territory} territory.",
        "Acute ischemic stroke involving the {where}, {territory} territory.",
        "DWI hyperintensity with low ADC in the {where} consistent with an acute infarct, {size}.",
        "Acute {territory} territory infarct on the {side} with cytotoxic edema.",
        "Wedge-shaped area of acute ischemia in the {where} measuring {size}.",
    ),
    "chronic infarction": (
        "Encephalomalacia and gliosis in the {where} from an old {territory} territory infarct.",
        "Chronic infarct in the {where} with volume loss and marginal gliosis, {size}.",
        "There is a remote {side} {territory} infarction with ex vacuo change.",
        "Old cortical infarct of the {where} with cystic encephalomalacia.",
    ),
    "lacunar infarction": (
        "There are {count} lacunar infarcts, the largest in the {where}.",
        "Lacunar infarction in the {where}, {size}.",
        "Small old lacunes are noted in the {where}.",
        "Multiple small cavitated lacunar infarcts of the deep grey matter, including the {where}.",
    ),
    "white matter hyperintensity": (
        "{grade} periventricular and deep white matter hyperintensities on FLAIR.",
        "Patchy T2/FLAIR white matter hyperintensity, {grade} in degree, likely chronic microvascular change.",
        "There is {grade} leukoaraiosis in the periventricular white matter.",
        "Scattered foci of FLAIR hyperintensity in the white matter consistent with {grade} small vessel ischemic disease.",
        "{grade} white matter hyperintensity with caps around the lateral ventricles.",
    ),
    "glioma": (
        "There is an infiltrative, heterogeneous mass in the {where} measuring {size}, with surrounding edema.",
        "Irregular intra-axial tumor of the {where}, {size}, with central necrosis, suspicious for glioma.",
        "A {size} infiltrating glioma in the {where} with mass effect.",
        "Ill-defined T2 hyperintense glial neoplasm centered in the {where}, {size}.",
    ),
    "meningioma": (
        "There is a well-circumscribed extra-axial mass along the {where} measuring {size}.",
        "Dural-based extra-axial lesion at the {where}, {size}, isointense to grey matter, consistent with meningioma.",
        "A {size} meningioma of the {where} displaces the adjacent brain.",
        "Broad-based dural mass with a CSF cleft at the {where}, {size}.",
    ),
    "metastasis": (
        "There are {count} lesions at the grey-white junction with edema, the largest in the {where} measuring {size}.",
        "Multiple round intracranial metastases, the largest {size} in the {where}.",
        "Metastatic deposits with disproportionate vasogenic edema, {count} in number, dominant lesion in the {where}.",
        "Metastasis in the {where}, {size}, with marked surrounding edema.",
    ),
    "Alzheimer's disease": (
        "There is marked bilateral hippocampal and medial temporal lobe atrophy with enlargement of the ventricles.",
        "Severe atrophy of the hippocampi, MTA score {grade}, with generalized sulcal widening.",
        "Pronounced mesial temporal volume loss with dilated temporal horns.",
        "Marked hippocampal atrophy in a pattern of Alzheimer's disease.",
    ),
    "mild cognitive impairment": (
        "There is mild hippocampal volume loss bilaterally.",
        "Mild mesial temporal atrophy, MTA score {grade}, as can be seen in mild cognitive impairment.",
        "Slight volume loss of both hippocampi, the remaining brain volume is preserved.",
        "Subtle widening of the choroid fissures and temporal horns in keeping with mild cognitive impairment.",
    ),
    "porencephaly": (
        "There is a porencephalic cyst in the {where} communicating with the lateral ventricle, {size}.",
        "CSF-filled cleft from the {side} lateral ventricle to the surface of the {lobe}, in keeping with porencephaly.",
        "Porencephaly of the {where}: a smooth-walled cavity in continuity with the ventricle, {size}.",
    ),
    "arachnoid cyst": (
        "There is an arachnoid cyst in the {where} measuring {size}.",
        "Extra-axial CSF signal collection in the {where}, {size}, displacing the brain, consistent with an arachnoid cyst.",
        "A {size} extra-axial cystic lesion of the {where} follows CSF on all sequences.",
    ),
}

DETAILS: dict[str, tuple[str, ...]] = {
    "acute hemorrhage": (
        "Surrounding vasogenic edema with local mass effect on the {side}.",
        "The hematoma is markedly hypointense on T2 with blooming.",
    ),
    "subacute hemorrhage": ("The hematoma shows a hypointense rim on SWI.", "Mild residual edema surrounds the hematoma."),
    "chronic hemorrhage": ("There is a rim of susceptibility around the old cavity.",),
    "cerebral microbleeds": ("The microbleeds are best seen on SWI.",),
    "acute infarction": (
        "The infarct shows bright signal on DWI and a corresponding ADC reduction.",
        "There is early cytotoxic swelling of the {lobe}.",
    ),
    "chronic infarction": (
        "Adjacent ex vacuo dilatation of the {side} lateral ventricle.",
        "FLAIR shows gliosis around the old infarct.",
    ),
    "lacunar infarction": ("The lacunes show a FLAIR hyperintense rim.",),
    "white matter hyperintensity": ("The white matter changes correspond to Fazekas grade {number}.",),
    "glioma": (
        "The mass has a necrotic center and extensive infiltrative edema.",
        "Mass effect of the tumor with effacement of the {side} sulci.",
    ),
    "meningioma": ("The extra-axial mass shows a broad dural attachment.", "The tumor compresses the adjacent cortex."),
    "metastasis": (
        "Marked vasogenic edema surrounds the metastatic lesions.",
        "Vasogenic edema is out of proportion to the metastatic tumor.",
    ),
    "Alzheimer's disease": (
        "The lateral ventricles and temporal horns are enlarged.",
        "Generalized cortical atrophy with parietotemporal predominance.",
    ),
    "mild cognitive impairment": ("Hippocampal volume is slightly below that expected for age.",),
    "porencephaly": ("The cavity is isointense to CSF and shows no surrounding gliosis.",),
    "arachnoid cyst": ("The cyst has no solid component and follows CSF signal.",),
}

IMPRESSIONS: dict[str, tuple[str, ...]] = {
    "acute hemorrhage": (
        "Acute hemorrhage in the {where}.",
        "Acute intracerebral hemorrhage, {where}.",
        "Acute parenchymal hematoma of the {where} with mass effect.",
        "Acute intracranial bleeding in the {where}.",
        "Acute intracranial hemorrhage.",
        "Acute hematoma as described.",
    ),
    "subacute hemorrhage": (
        "Subacute hemorrhage in the {where}.",
        "Subacute intracerebral hematoma, {where}.",
        "Findings most consistent with subacute hemorrhage of the {where}.",
        "Subacute intracranial hemorrhage.",
        "Subacute hematoma as described.",
    ),
    "chronic hemorrhage": (
        "Chronic hemorrhage in the {where}.",
        "Old hemorrhage with hemosiderin deposition, {where}.",
        "Sequelae of remote intracerebral hemorrhage in the {where}.",
        "Chronic intracranial hemorrhage.",
        "Chronic hematoma as described.",
    ),
    "cerebral microbleeds": (
        "Cerebral microbleeds.",
        "Multiple cerebral microbleeds in a {pattern} pattern.",
        "Multiple {pattern} microhemorrhages, likely {etiology}.",
    ),
    "acute infarction": (
        "Acute infarction in the {where}.",
        "Acute ischemic stroke, {side} {territory} territory.",
        "Acute {side} {territory} territory infarction.",
        "Findings consistent with acute stroke in the {where}.",
        "Acute ischemic stroke.",
        "Acute infarct as described.",
    ),
    "chronic infarction": (
        "Chronic infarction in the {where}.",
        "Old {side} {territory} infarct with encephalomalacia.",
        "Remote infarct of the {where}.",
        "Chronic infarct.",
        "Old infarct as described.",
    ),
    "lacunar infarction": (
        "Lacunar infarction.",
        "Old lacunar infarcts, including the {where}.",
        "Chronic lacunar infarct in the {where}.",
        "Multiple lacunes.",
    ),
    "white matter hyperintensity": (
        "{grade} white matter hyperintensity.",
        "{grade} chronic small vessel ischemic disease.",
        "{grade} white matter hyperintensities, likely microangiopathic.",
        "{grade} leukoaraiosis.",
        "Chronic microvascular white matter changes.",
    ),
    "glioma": (
        "Glioma of the {where}.",
        "Infiltrating {where} mass, most likely high-grade glioma.",
        "Intra-axial tumor in the {where}, findings favor glioma.",
        "Suspected glioblastoma of the {where}.",
        "Glioma.",
        "Primary glial neoplasm as described.",
        "Findings consistent with glioblastoma.",
    ),
    "meningioma": (
        "Meningioma of the {where}.",
        "Extra-axial mass at the {where}, most likely meningioma.",
        "Dural-based tumor consistent with meningioma.",
        "Meningioma.",
        "Extra-axial mass consistent with meningioma.",
    ),
    "metastasis": (
        "Brain metastases.",
        "Brain metastasis, {where}.",
        "Metastasis in the {where} with edema.",
        "Multiple lesions compatible with metastatic disease.",
        "Findings highly suspicious for cerebral metastases.",
    ),
    "Alzheimer's disease": (
        "Atrophy pattern suggestive of Alzheimer's disease.",
        "Findings consistent with Alzheimer's disease.",
        "Marked hippocampal atrophy, probable Alzheimer's disease.",
        "Medial temporal atrophy as in Alzheimer dementia.",
    ),
    "mild cognitive impairment": (
        "Mild hippocampal atrophy, compatible with mild cognitive impairment.",
        "Findings may reflect mild cognitive impairment.",
        "Mild medial temporal atrophy, in keeping with MCI.",
    ),
    "porencephaly": (
        "Porencephaly of the {where}.",
        "Porencephalic cyst, {where}.",
        "Porencephalic cavity communicating with the {side} lateral ventricle.",
        "Porencephaly.",
        "Porencephalic cyst as described.",
    ),
    "arachnoid cyst": (
        "Arachnoid cyst of the {where}.",
        "Arachnoid cyst, {where}, with displacement of the adjacent brain.",
        "Extra-axial cyst consistent with an arachnoid cyst.",
        "Arachnoid cyst.",
        "Incidental arachnoid cyst.",
    ),
    "normal": (
        "Normal MRI of the brain.",
        "No significant abnormalities.",
        "Unremarkable brain MRI.",
        "No acute intracranial abnormality, normal study for age.",
    ),
}

_HEMORRHAGE = ("acute hemorrhage", "subacute hemorrhage", "chronic hemorrhage", "cerebral microbleeds")
_TUMORS = ("glioma", "meningioma", "metastasis")
_CAVITIES = ("porencephaly", "arachnoid cyst")

NEGATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("No acute hemorrhage.", ("acute hemorrhage",)),
    ("No evidence of intracranial hemorrhage.", _HEMORRHAGE),
    ("No abnormal susceptibility to suggest blood products.", _HEMORRHAGE),
    ("No cerebral microbleeds.", ("cerebral microbleeds",)),
    ("No acute infarct.", ("acute infarction",)),
    ("No restricted diffusion.", ("acute infarction", "acute hemorrhage", "subacute hemorrhage", *_TUMORS)),
    ("No diffusion abnormality to suggest acute ischemia.", ("acute infarction",)),
    ("No old territorial infarct.", ("chronic infarction",)),
    ("No intracranial mass.", _TUMORS),
    ("No mass lesion or midline shift.", (*_TUMORS, "acute hemorrhage", "subacute hemorrhage", "arachnoid cyst")),
    ("No mass effect.", (*_TUMORS, "acute hemorrhage", "subacute hemorrhage", "arachnoid cyst")),
    ("No extra-axial lesion.", ("meningioma", "arachnoid cyst")),
    ("No extra-axial fluid collection.", ("arachnoid cyst",)),
    ("No evidence of metastatic disease.", ("metastasis",)),
    ("No hydrocephalus.", ()),
    ("No significant white matter disease.", ("white matter hyperintensity",)),
    ("No lacunar infarct.", ("lacunar infarction",)),
    ("No disproportionate hippocampal atrophy.", ("Alzheimer's disease", "mild cognitive impairment")),
)

NORMAL_STATEMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "The ventricles and sulci are normal in size and configuration.",
        ("Alzheimer's disease", "mild cognitive impairment", "chronic infarction", *_CAVITIES, *_TUMORS, *_HEMORRHAGE[:3]),
    ),
    ("The hippocampi are normal in volume.", ("Alzheimer's disease", "mild cognitive impairment")),
    ("Grey-white differentiation is preserved.", ("acute infarction", "chronic infarction", *_TUMORS)),
    ("The basal cisterns are patent.", ()),
    ("The major intracranial flow voids are preserved.", ()),
    ("The paranasal sinuses and mastoid air cells are clear.", ()),
    ("The orbits are unremarkable.", ()),
    ("The sella and craniocervical junction are unremarkable.", ()),
    ("Bone marrow signal of the calvarium is normal.", ()),
    ("The corpus callosum is fully formed.", ()),
    ("Mild mucosal thickening of the maxillary sinuses.", ()),
)
NORMAL_BRAIN = (
    "The brain parenchyma shows normal signal.",
    "Normal appearance of the brain without focal lesion.",
    "No focal signal abnormality of the brain parenchyma.",
    "Brain volume is normal for age.",
)
TECHNIQUE = (
    "Multiplanar multisequence MRI of the brain was performed without contrast, including {sequences}.",
    "MRI of the brain without intravenous contrast.",
    "{sequences} images were obtained on a {field} T scanner.",
    "Routine unenhanced brain protocol at {field} tesla.",
)
FIRST = ("None.", "No prior imaging is available for comparison.", "None available.")
AGAIN = ("Compared with the prior MRI.", "Prior MRI of the brain.", "Comparison is made to the previous examination.")
EVOLVED = ("The finding has evolved since the prior study.", "Interval evolution compared with the prior examination.")
STABLE = ("No significant interval change.", "Findings are stable compared with the prior study.")
# The first two may also close an impression.
HEDGES = (
    "Clinical correlation is recommended.",
    "Follow-up imaging as clinically indicated.",
    "Evaluation is mildly limited by motion.",
    "Correlation with prior outside studies would be helpful.",
    "Some images are degraded by artifact.",
    "Findings were discussed with the referring team.",
)
HEDGED = ("Likely {}", "Probable {}", "Findings suggestive of {}", "Appearance compatible with {}")
