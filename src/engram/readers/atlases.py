"""Names of the regions of published atlases, in the order in which they are published.

Regions are put in order by name, never by index.  The 400 parcels of Schaefer et al. (2018) exist
in two orders, of 7 and of 17 networks: the parcels are the same, the names and their order are not,
and four parcels alone have the same number in both.  `same` knows which names mean one parcel.

Source: the label and centroid tables of github.com/ThomasYeoLab/CBIG (MIT License, Computational
Brain Imaging Group) and github.com/yetianmed/subcortex.  Parcels of the two orders were matched by
their centroids in MNI space, which are equal for 400 of 400.
"""

from functools import cache

from engram.errors import InputError

#: Regions of the 7-network order: how many each part of a network has, by hemisphere.
SEVEN = {
    "LH": """
Vis 31, SomMot 37, DorsAttn_Post 17, DorsAttn_FEF 4, DorsAttn_PrCv 2, SalVentAttn_ParOper 4,
SalVentAttn_TempOcc 1, SalVentAttn_FrOperIns 9, SalVentAttn_PFCl 1, SalVentAttn_Med 7,
Limbic_OFC 5, Limbic_TempPole 8, Cont_Par 6, Cont_Temp 1, Cont_OFC 1, Cont_PFCl 8, Cont_PFCv 1,
Cont_pCun 2, Cont_Cing 2, Cont_PFCmp 1, Default_Temp 10, Default_Par 7, Default_PFC 24,
Default_pCunPCC 11
""",
    "RH": """
Vis 30, SomMot 40, DorsAttn_Post 19, DorsAttn_FEF 3, DorsAttn_PrCv 1, SalVentAttn_TempOccPar 7,
SalVentAttn_PrC 1, SalVentAttn_FrOperIns 8, SalVentAttn_PFCl 1, SalVentAttn_Med 8, Limbic_OFC 6,
Limbic_TempPole 7, Cont_Par 6, Cont_Temp 2, Cont_PFCv 1, Cont_PFCl 15, Cont_pCun 2, Cont_Cing 2,
Cont_PFCmp 2, Default_Par 5, Default_Temp 8, Default_PFCv 4, Default_PFCdPFCm 13,
Default_pCunPCC 9
""",
}

#: Parts of networks in the 17-network order; behind each, the numbers (from 1) that its parcels
#: have in the 7-network order.
SEVENTEEN = """
LH_VisCent_ExStr 3 5 6 9 12 14
LH_VisCent_Striate 15
LH_VisCent_ExStr 17 19 23 24 27
LH_VisPeri_ExStrInf 4 10 11 13 16
LH_VisPeri_StriCal 18 21
LH_VisPeri_ExStrSup 22 25 26 29 30
LH_SomMotA 49 50 51 52 53 54 55 56 57 59 60 61 62 63 64 65 66 67 68
LH_SomMotB_Aud 32 33
LH_SomMotB_Ins 34
LH_SomMotB_S2 35 36
LH_SomMotB_Aud 37 38
LH_SomMotB_S2 39 40 41 42
LH_SomMotB_Cent 43 44 45 47 48
LH_DorsAttnA_TempOcc 69 1 70 8
LH_DorsAttnA_ParOcc 72 28
LH_DorsAttnA_SPL 73 31 75 78 80 81 82
LH_DorsAttnB_PostC 94 46 74 76 79 58 83 84 85
LH_DorsAttnB_FEF 86 87 88
LH_DorsAttnB_PrCv 91
LH_SalVentAttnA_ParOper 92 93 95
LH_SalVentAttnA_Ins 98 100 101 102
LH_SalVentAttnA_FrOper 104 105
LH_SalVentAttnA_ParMed 109 111 112
LH_SalVentAttnA_FrMed 108 110 113
LH_SalVentAttnB_PFCl 137 106 142
LH_SalVentAttnB_Ins 143 99 103
LH_SalVentAttnB_OFC 134
LH_SalVentAttnB_PFCmp 107
LH_LimbicB_OFC 114 115 116 117 118
LH_LimbicA_TempPole 119 120 121 122 123 125 97
LH_ContA_Temp 71
LH_ContA_IPS 127 128 130 132 77
LH_ContA_PFCd 89
LH_ContA_PFClv 136 139
LH_ContA_PFCl 90 140 141
LH_ContA_Cingm 146
LH_ContB_Temp 151 133
LH_ContB_IPL 165 129 131
LH_ContB_PFCd 186
LH_ContB_PFClv 135 171 138
LH_ContB_PFCmp 148
LH_ContC_pCun 194 144 145
LH_ContC_Cingp 193 147
LH_DefaultA_IPL 162 164
LH_DefaultA_PFCd 181 184 187
LH_DefaultA_pCunPCC 192 195 196 197 198 199 200
LH_DefaultA_PFCm 168 169 173 174 176 177
LH_DefaultB_Temp 124 149 150 152 154 155
LH_DefaultB_IPL 160 163
LH_DefaultB_PFCd 178 179 180 183 188 189
LH_DefaultB_PFCl 182 185
LH_DefaultB_PFCv 166 167 170 172 175
LH_DefaultC_IPL 161
LH_DefaultC_Rsp 20 190 191
LH_DefaultC_PHC 126 2 7
LH_TempPar 153 156 157 158 96 159
RH_VisCent_ExStr 203 204 206 208 210 213
RH_VisCent_Striate 215
RH_VisCent_ExStr 218 221 222 223 226
RH_VisPeri_ExStrInf 205 207 211 212 214
RH_VisPeri_StriCal 219 220
RH_VisPeri_ExStrSup 224 225 228 229
RH_SomMotA 249 251 252 253 254 255 256 257 258 259 260 261 262 263 264 265 266 268 269 270
RH_SomMotB_Aud 231 233
RH_SomMotB_Ins 234
RH_SomMotB_S2 235 236
RH_SomMotB_Aud 237
RH_SomMotB_S2 239 240 241 242 243 244
RH_SomMotB_Cent 245 246 248
RH_DorsAttnA_TempOcc 201 271 209
RH_DorsAttnA_ParOcc 216 273 227
RH_DorsAttnA_SPL 230 275 277 280 282 284 286 288
RH_DorsAttnB_TempOcc 272
RH_DorsAttnB_PostC 247 276 278 279 283 287 289 267
RH_DorsAttnB_FEF 290 291 292
RH_SalVentAttnA_ParOper 297 298 299
RH_SalVentAttnA_PrC 301
RH_SalVentAttnA_Ins 302 303 304 305
RH_SalVentAttnA_FrOper 307 308 309
RH_SalVentAttnA_FrMed 312
RH_SalVentAttnA_ParMed 250 313
RH_SalVentAttnA_FrMed 314
RH_SalVentAttnA_ParMed 315 316
RH_SalVentAttnA_FrMed 317 318
RH_SalVentAttnB_IPL 300
RH_SalVentAttnB_PFClv 344
RH_SalVentAttnB_PFCl 345 348 310
RH_SalVentAttnB_Ins 340 306
RH_SalVentAttnB_PFCmp 360 311
RH_LimbicB_OFC 319 320 321 322 323 324
RH_LimbicA_TempPole 325 326 327 328 329 330
RH_ContA_IPS 334 335 336 281
RH_ContA_PFCd 355
RH_ContA_PFCl 346 347 349 293 350
RH_ContA_Cingm 359
RH_ContB_Temp 338 339
RH_ContB_IPL 365 332 333 337
RH_ContB_PFCld 351 352 353 354
RH_ContB_PFClv 376 341 342 343
RH_ContB_PFCmp 361
RH_ContC_pCun 394 356 357 400 285
RH_ContC_Cingp 393 358
RH_DefaultA_Temp 368
RH_DefaultA_IPL 364 366
RH_DefaultA_PFCd 388 390
RH_DefaultA_pCunPCC 395 396 397 398 399
RH_DefaultA_PFCm 379 380 381 382 383 384
RH_DefaultB_Temp 371 373
RH_DefaultB_AntTemp 367
RH_DefaultB_PFCd 385 386 387 389 391
RH_DefaultB_PFCv 375 377 378
RH_DefaultC_IPL 363 274
RH_DefaultC_Rsp 217 392
RH_DefaultC_PHC 331 202
RH_TempPar 369 370 372 232 374 294 295 238 362 296
"""

#: One hemisphere of the subcortex of Tian et al. (2020), scale S3.
TIAN = """
HIP-head-m HIP-head-l HIP-body HIP-tail THA-VPm THA-VPl THA-VAi THA-VAs THA-DAm THA-DAl PUT-VA
PUT-DA PUT-VP PUT-DP CAU-VA CAU-DA CAU-body CAU-tail lAMY mAMY THA-DP NAc-shell NAc-core pGP aGP
"""
#: What three of them were called in the first label files.
TIAN_BEFORE = {"THA-MPm": "THA-VPm", "THA-MPl": "THA-VPl", "THA-LP": "THA-DP"}

#: The networks of Yeo et al. (2011); those of the cerebellum in Buckner et al. (2011) are the same.
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")


def _seven():
    for side, parts in SEVEN.items():
        for part in parts.replace("\n", " ").split(", "):
            name, count = part.split()
            yield from (f"7Networks_{side}_{name}_{i}" for i in range(1, int(count) + 1))


def _seventeen():
    """(name, number in the 7-network order from 0) of each parcel."""
    seen = {}
    for token in SEVENTEEN.split():
        if not token.isdigit():
            part = token
            continue
        seen[part] = seen.get(part, 0) + 1
        yield f"17Networks_{part}_{seen[part]}", int(token) - 1


#: Names of the regions of each atlas, in its order.
ATLASES = {
    "schaefer400_7n": tuple(_seven()),
    "schaefer400_17n": tuple(name for name, _ in _seventeen()),
    "tian_s3": tuple(f"{name}-{side}" for side in ("rh", "lh") for name in TIAN.split()),
    "buckner7": tuple(f"Cerebellum_{network}" for network in NETWORKS),
}


def named(wanted) -> tuple[str, ...]:
    """Names of regions, those of an atlas in place of its own name.

    Args:
        wanted: names of regions or of atlases.

    Raises:
        InputError: a name comes twice.
    """
    found = [name for one in wanted for name in ATLASES.get(one, (one,))]
    twice = next((name for name in found if found.count(name) > 1), None) if wanted else None
    if twice:
        raise InputError(f"region {twice!r} is named twice; name each once")
    return tuple(found)


def same(name) -> str:
    """The name by which a region is compared: one for a parcel that has several."""
    return _synonyms().get(name, name)


@cache
def _synonyms():
    seven = ATLASES["schaefer400_7n"]
    parcels = {name: seven[number] for name, number in _seventeen()}
    before = {
        f"{old}-{side}": f"{new}-{side}"
        for old, new in TIAN_BEFORE.items()
        for side in ("rh", "lh")
    }
    return parcels | before


def network(name) -> str:
    """The network of a region as its name says it, "Subcortex" for Tian, or "" if it does not."""
    known = same(name)
    if known in ATLASES["tian_s3"]:
        return "Subcortex"
    parts = known.split("_")
    if known.startswith("7Networks_"):
        return parts[2]
    return "Cerebellum" if known in ATLASES["buckner7"] else ""
