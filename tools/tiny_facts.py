"""Fact tables behind the corpus of the embedded model `tiny`; plain data, English and Chinese."""

from __future__ import annotations

# Country, its Chinese name, capital, its Chinese name.
CAPITALS: list[tuple[str, str, str, str]] = [
    ("France", "法国", "Paris", "巴黎"),
    ("Germany", "德国", "Berlin", "柏林"),
    ("Italy", "意大利", "Rome", "罗马"),
    ("Spain", "西班牙", "Madrid", "马德里"),
    ("Portugal", "葡萄牙", "Lisbon", "里斯本"),
    ("Ireland", "爱尔兰", "Dublin", "都柏林"),
    ("Norway", "挪威", "Oslo", "奥斯陆"),
    ("Sweden", "瑞典", "Stockholm", "斯德哥尔摩"),
    ("Finland", "芬兰", "Helsinki", "赫尔辛基"),
    ("Denmark", "丹麦", "Copenhagen", "哥本哈根"),
    ("Poland", "波兰", "Warsaw", "华沙"),
    ("Austria", "奥地利", "Vienna", "维也纳"),
    ("Greece", "希腊", "Athens", "雅典"),
    ("Russia", "俄罗斯", "Moscow", "莫斯科"),
    ("China", "中国", "Beijing", "北京"),
    ("Japan", "日本", "Tokyo", "东京"),
    ("Thailand", "泰国", "Bangkok", "曼谷"),
    ("Egypt", "埃及", "Cairo", "开罗"),
    ("Canada", "加拿大", "Ottawa", "渥太华"),
    ("Cuba", "古巴", "Havana", "哈瓦那"),
    ("Peru", "秘鲁", "Lima", "利马"),
    ("Kenya", "肯尼亚", "Nairobi", "内罗毕"),
]

# Cities that only the tools speak of, so that names are copied and not recalled.
MORE_CITIES: list[str] = [
    "Milan", "Lyon", "Porto", "Bergen", "Munich", "Boston", "Chicago", "Toronto", "Sydney",
    "Osaka", "Mumbai", "Geneva", "Prague", "Seoul", "Dallas", "Hamburg", "Naples", "Seville",
]  # fmt: skip

COLOURS: list[tuple[str, str, str, str]] = [
    ("the sky", "天空", "blue", "蓝色"),
    ("grass", "草", "green", "绿色"),
    ("snow", "雪", "white", "白色"),
    ("the sun", "太阳", "yellow", "黄色"),
    ("a banana", "香蕉", "yellow", "黄色"),
    ("a tomato", "番茄", "red", "红色"),
    ("blood", "血", "red", "红色"),
    ("milk", "牛奶", "white", "白色"),
    ("coal", "煤", "black", "黑色"),
    ("an orange", "橙子", "orange", "橙色"),
    ("chocolate", "巧克力", "brown", "棕色"),
    ("a leaf", "树叶", "green", "绿色"),
]

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
DAYS_ZH = ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
]  # fmt: skip
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
]  # fmt: skip

OPPOSITES: list[tuple[str, str]] = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("old", "young"),
    ("happy", "sad"), ("light", "dark"), ("open", "closed"), ("early", "late"), ("wet", "dry"),
    ("full", "empty"), ("high", "low"), ("hard", "soft"), ("rich", "poor"), ("near", "far"),
    ("loud", "quiet"), ("clean", "dirty"), ("day", "night"), ("left", "right"),
    ("strong", "weak"), ("long", "short"), ("good", "bad"), ("thick", "thin"), ("first", "last"),
]  # fmt: skip
OPPOSITES_ZH: list[tuple[str, str]] = [
    ("大", "小"), ("高", "低"), ("快", "慢"), ("冷", "热"), ("多", "少"), ("新", "旧"),
    ("上", "下"), ("左", "右"), ("远", "近"), ("黑", "白"), ("长", "短"), ("好", "坏"),
]  # fmt: skip

PLURALS: list[tuple[str, str]] = [
    ("cat", "cats"), ("dog", "dogs"), ("book", "books"), ("box", "boxes"), ("city", "cities"),
    ("child", "children"), ("mouse", "mice"), ("foot", "feet"), ("tooth", "teeth"),
    ("man", "men"), ("woman", "women"), ("leaf", "leaves"), ("bus", "buses"), ("baby", "babies"),
    ("fish", "fish"), ("sheep", "sheep"), ("apple", "apples"), ("car", "cars"), ("tree", "trees"),
    ("knife", "knives"), ("story", "stories"), ("card", "cards"), ("house", "houses"),
    ("watch", "watches"),
]  # fmt: skip

# Question as statement order: (subject, verb, rest, truth).
YES_NO: list[tuple[str, str, str, bool]] = [
    ("fire", "is", "hot", True), ("fire", "is", "cold", False), ("ice", "is", "cold", True),
    ("ice", "is", "hot", False), ("water", "is", "wet", True), ("water", "is", "dry", False),
    ("a mouse", "is", "big", False), ("a mouse", "is", "small", True),
    ("an elephant", "is", "big", True), ("an elephant", "is", "small", False),
    ("the sun", "is", "bright", True), ("the sun", "is", "dark", False),
    ("sugar", "is", "sweet", True), ("a lemon", "is", "sweet", False),
    ("a lemon", "is", "sour", True), ("a rock", "is", "hard", True),
    ("a rock", "is", "soft", False),
    ("birds", "can", "fly", True), ("dogs", "can", "fly", False), ("fish", "can", "swim", True),
    ("fish", "can", "read", False), ("cats", "can", "climb", True), ("cats", "can", "read", False),
    ("people", "can", "talk", True), ("trees", "can", "walk", False), ("dogs", "can", "run", True),
    ("stones", "can", "talk", False), ("horses", "can", "run", True),
]  # fmt: skip
YES_NO_ZH: list[tuple[str, str, bool]] = [
    ("火", "热的", True), ("冰", "热的", False), ("冰", "冷的", True), ("糖", "甜的", True),
    ("柠檬", "甜的", False), ("柠檬", "酸的", True), ("雪", "黑色的", False),
    ("雪", "白色的", True),
    ("草", "绿色的", True), ("大象", "小的", False), ("大象", "大的", True), ("石头", "硬的", True),
]  # fmt: skip

# Thing (with its article), and the definition that follows "is" (a full phrase).
THINGS: list[tuple[str, str]] = [
    ("a cat", "a small animal that people keep at home"),
    ("a dog", "an animal that is a good friend of people"),
    ("a bird", "an animal with wings and feathers"),
    ("a fish", "an animal that lives in water"),
    ("a horse", "a large animal that people can ride"),
    ("a cow", "a farm animal that gives milk"),
    ("a bee", "an insect that makes honey"),
    ("a tree", "a tall plant with a trunk and leaves"),
    ("a flower", "the bright part of a plant"),
    ("a river", "a long stream of water that runs to the sea"),
    ("a lake", "a body of water with land all around it"),
    ("a mountain", "a very high hill"),
    ("an island", "a piece of land with water all around it"),
    ("a desert", "a dry place with very little rain"),
    ("a forest", "a large place full of trees"),
    ("a harbor", "a safe place by the sea for ships"),
    ("a ship", "a large boat that sails on the sea"),
    ("a train", "a line of cars that runs on rails"),
    ("a bicycle", "a machine with two wheels that you ride"),
    ("a car", "a machine with four wheels and an engine"),
    ("a plane", "a machine with wings that flies"),
    ("a book", "a set of pages with text to read"),
    ("a library", "a place where people borrow books"),
    ("a shop", "a place where people buy things"),
    ("a school", "a place where children learn"),
    ("a hospital", "a place where sick people get help"),
    ("a teacher", "a person who helps others learn"),
    ("a doctor", "a person who helps sick people"),
    ("a baker", "a person who makes bread"),
    ("a clock", "a machine that shows the time"),
    ("a computer", "a machine that works with data"),
    ("a phone", "a machine for talking with people far away"),
    ("a gift", "a thing that you give to another person"),
    ("a map", "a picture that shows where places are"),
    ("a chair", "a seat for one person"),
    ("a table", "a flat top with legs"),
    ("a window", "an opening in a wall that lets in light"),
    ("rain", "water that falls from the clouds"),
    ("snow", "soft white ice that falls from the clouds"),
    ("a cloud", "a mass of tiny drops of water in the sky"),
    ("the moon", "a ball of rock that goes around the earth"),
    ("bread", "a food made from flour and water"),
]
THINGS_ZH: list[tuple[str, str]] = [
    ("猫", "一种常见的小动物"), ("狗", "人类的好朋友"), ("鸟", "一种有翅膀的动物"),
    ("鱼", "一种生活在水里的动物"), ("书", "用来阅读的东西"), ("学校", "学生学习的地方"),
    ("医院", "给病人看病的地方"), ("商店", "买东西的地方"), ("图书馆", "借书的地方"),
    ("老师", "教学生的人"), ("医生", "给病人看病的人"), ("汽车", "一种有四个轮子的交通工具"),
    ("火车", "在铁路上跑的交通工具"), ("雨", "从云里落下的水"), ("月亮", "绕着地球转的星球"),
    ("钟", "显示时间的机器"), ("电脑", "处理数据的机器"), ("岛", "四面都是水的陆地"),
    ("礼物", "送给别人的东西"), ("面包", "用面粉做的食物"),
]  # fmt: skip

NAMES = [
    "Max", "Nora", "Leo", "Mira", "Otto", "Ada", "Finn", "Ruby", "Hugo", "Iris", "Sam", "Lily",
    "Ben", "Clara", "Tom", "Eva", "Kim", "Oscar", "Rosa", "Felix", "Anna", "Paul", "Zoe", "Jack",
]  # fmt: skip
NAMES_ZH = ["小明", "小红", "小美", "小龙", "阿宝", "小雨", "小天", "米拉", "小文", "小林"]
ROLES = [
    "a friendly assistant", "a cooking helper", "a travel guide", "the assistant of a small school",
    "the guide of the city museum", "a helper for gardeners", "the voice of the green hotel",
    "the assistant of the north train station", "a patient teacher", "a helper for new drivers",
    "the assistant of the river bank", "the guide of the old library", "a music assistant",
    "the assistant of the blue flower shop", "a weather helper", "the helper of the town market",
]  # fmt: skip
ROLES_ZH = [
    "一个友好的助手", "学校的助手", "酒店的助手", "一名旅行向导", "图书馆的助手", "花店的助手",
    "一名耐心的老师", "火车站的助手", "博物馆的向导", "一个音乐助手",
]  # fmt: skip

# Words of the copying exercise: they teach the model to repeat what a prompt says.
WORD_TEXT = (
    "shop store books gift card cards return refund receipt days weeks open close hours from until "
    "street road square harbor bridge corner next station market coffee tea free online order "
    "delivery phone call email price cheap sale discount percent members student children reading "
    "event author story novel poem used new old buy sell pay cash money ten twenty fifty euros "
    "dollars help welcome team place floor first second door parking bus walk minutes morning "
    "evening weekend closed holiday find stock shelf title copy wrap paper post send parcel within "
    "week month day year any every only also sorry sure course yes no we our us you your can with "
    "at on in by the for and or to of it is are see off shelf hour read get "
    "work what when where how do have here"
)
WORD_TEXT_ZH = (
    "书店 书 港口 礼品卡 退货 退款 收据 营业 时间 早上 晚上 上午 下午 九点 六点 八点 街 桥 旁边 "
    "车站 咖啡 免费 网上 订单 送货 电话 价格 打折 会员 学生 孩子 故事 小说 二手 新书 现金 欧元 "
    "星期日 休息 周末 欢迎 我们 可以 在 的 是 有 买 卖 天 内 号 前台 柜台 店里 任何 每天 关门 "
    "开门 到 从 点 来 退 怎么 想 去 地址 什么"
)
WORDS = WORD_TEXT.split()
WORDS_ZH = WORD_TEXT_ZH.split()

UNKNOWN_EN = [
    "When does the {t} leave?", "Where is my {t}?", "How much does the {t} cost?",
    "Where can I find a {t}?", "What is the phone number of the {t}?", "Who made this {t}?",
    "When does the {t} close?", "What is the price of a {t}?", "Do you sell a {t}?",
    "Do you have a {t}?", "Is the {t} free today?", "When is the {t} open?", "I want a {t}.",
    "How can I order a {t}?", "How do I get to the {t}?", "Can I send back my {t}?",
    "Is there a {t} near here?", "What are the hours of the {t}?", "Which {t} should I buy?",
    "Tell me about the {t}.", "Can I return a {t}?", "Can I buy a {t} online?",
    "May I bring my {t}?", "Where do I get a {t}?", "What about the {t}?", "Are you a {t}?",
    "Do you like the {t}?", "Is the {t} closed on Sunday?", "What does the {t} do?",
]  # fmt: skip
UNKNOWN_THINGS = [
    "train", "bus", "parcel", "ticket", "hotel", "museum", "bank", "market", "coat", "lamp",
    "ship", "plane", "concert", "shoe", "pool", "office", "garden", "cinema", "letter", "key",
    "refund", "receipt", "coffee", "discount", "student", "story hour", "gift card", "used book",
    "opening hours", "shop", "address", "book", "order", "novel", "street", "price",
]  # fmt: skip
PERSONAL = [
    "How old are you?", "Where do you live?", "Where are you?", "Where are you from?",
    "When do you sleep?", "When are you free?", "When do you eat?", "What do you like?",
    "Do you have friends?", "Do you have children?", "Are you happy?", "Are you open?",
    "When do you open?", "Can I visit you?", "What did you do on Sunday?", "Do you sing?",
    "Are you free on Monday?", "Can I see you on Sunday?", "How tall are you?",
]  # fmt: skip
UNKNOWN_ZH = [
    "{t}几点开门？", "{t}在哪里？", "{t}多少钱？", "怎么买{t}？", "{t}的电话是多少？",
    "可以退{t}吗？", "附近有{t}吗？", "{t}什么时候到？", "有{t}吗？", "我想买{t}。", "怎么去{t}？",
    "告诉我{t}的地址。", "你们的{t}在哪里？", "你们有{t}吗？", "我想要{t}。", "{t}怎么样？",
]  # fmt: skip
UNKNOWN_THINGS_ZH = [
    "车票", "酒店", "银行", "公园", "衣服", "手机", "门票", "包裹", "电影", "飞机", "书店",
    "礼品卡", "收据", "小说", "咖啡", "营业时间", "退款", "市场",
]  # fmt: skip
