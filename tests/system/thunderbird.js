/* What a person does in Thunderbird, as functions of `tb`: through its own windows, dialogs and commands.
 *
 * The body of a function that runs once in a sandbox of the main window. Waits for states, never for times.
 */

const PATIENCE_MS = 20_000;
const flag = Ci.nsMsgFolderFlags;
const FOLDERS = { INBOX: flag.Inbox, Sent: flag.SentMail, Drafts: flag.Drafts, Trash: flag.Trash, Junk: flag.Junk };

async function until(condition, what) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await condition();
    if (found) {
      return found;
    }
    if (Date.now() > end) {
      throw new Error(`${typeof what == "function" ? what() : what} was not reached`);
    }
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

const account = () => MailServices.accounts.accounts.find(one => one.incomingServer.type == "imap");
const pane = () => document.getElementById("tabmail").currentAbout3Pane;
const noticeOf = view => view?.shadowRoot?.querySelector("#emailFormNotification")?.textContent.replace(/\s+/g, " ");

/** A folder by the name of its use or by its own; null when there is none yet. */
function folder(name) {
  const root = account().incomingServer.rootFolder;
  const byUse = FOLDERS[name] && root.getFolderWithFlags(FOLDERS[name]);
  return byUse || (root.containsChildNamed(name) ? root.getChildNamed(name) : null);
}

/** The messages that a folder is known to hold, without asking the server. */
const headers = name => [...folder(name).messages];
const subjectOf = header => (header.flags & Ci.nsMsgMessageFlags.HasRe ? "Re: " : "") + header.mime2DecodedSubject;
const headed = (name, subject) => headers(name).filter(one => subjectOf(one) == subject);

/** Shows a folder, which asks the server for what is new in it. */
async function show(name) {
  const shown = await until(() => folder(name), `folder ${name}`);
  pane().displayFolder(shown.URI);
  await until(() => pane().gFolder == shown && pane().gViewWrapper?.dbView, `a view of ${name}`);
  pane().gViewWrapper.showUnthreaded = true;
  shown.updateFolder(msgWindow);
}

/** Waits until what is known of a folder satisfies `condition`, and asks the server again now and then. */
async function settled(name, condition, what) {
  await show(name);
  let looks = 0;
  return until(() => {
    if (++looks % 20 == 0) {
      folder(name).updateFolder(msgWindow);
    }
    return condition();
  }, what);
}

/** Clicks the one message of that subject in a folder. */
async function select(name, subject) {
  await settled(name, () => {
    const view = pane().gDBView;
    for (let index = 0; index < view.rowCount; index++) {
      if (subjectOf(view.getMsgHdrAt(index)) == subject) {
        pane().threadTree.selectedIndex = index;
        return view.numSelected == 1 && subjectOf(view.hdrForFirstSelectedMessage) == subject;
      }
    }
    return false;
  }, `a row of ${name} with the subject`);
}

/** Gives a command of the message list, as its menu and keys do. */
async function order(command, ...more) {
  await until(() => pane().commandController.isCommandEnabled(command), `command ${command}`);
  pane().commandController.doCommand(command, ...more);
}

/** The compose window, once one can type into it. */
function composing() {
  const ready = window => window.composeEditorReady && window.gMsgCompose;
  return until(() => [...Services.wm.getEnumerator("msgcompose")].find(ready), "a compose window");
}

/** A compose window for a new message. */
function newMessage() {
  const { New } = Ci.nsIMsgCompType;
  const format = Ci.nsIMsgCompFormat.Default;
  MailServices.compose.OpenComposeWindow(null, null, null, New, format, account().defaultIdentity, null, null);
  return composing();
}

/** A listener to one transaction with the server, and the promise of its good end. */
function listening(what) {
  const { promise, resolve, reject } = Promise.withResolvers();
  const done = status => (Components.isSuccessCode(status) ? resolve() : reject(new Error(`${what}: ${status}`)));
  return { promise, done, listener: { OnStartRunningUrl() {}, OnStopRunningUrl: (_, status) => done(status) } };
}

/** Types into the compose window, above what stands there, and attaches files. */
async function write(window, { to, subject, body, files = [] }) {
  if (to) {
    const input = window.document.getElementById("toAddrInput");
    input.focus();
    input.value = `${to},`;
    input.dispatchEvent(new window.Event("input", { bubbles: true }));
    window.recipientAddPills(input);
    await until(() => window.document.querySelector("#toAddrContainer mail-address-pill"), "the recipient");
  }
  if (subject) {
    window.document.getElementById("msgSubject").value = subject;
  }
  if (body) {
    const editor = window.GetCurrentEditor();
    editor.beginningOfDocument();
    editor.insertText(body);
  }
  const attachments = files.map(path => {
    const file = new FileUtils.File(path);
    const one = Cc["@mozilla.org/messengercompose/attachment;1"].createInstance(Ci.nsIMsgAttachment);
    one.url = Services.io.newFileURI(file).spec;
    one.size = file.fileSize;
    return one;
  });
  if (attachments.length) {
    await window.AddAttachments(attachments);
  }
}

/** Gives a command of the compose window and waits for its end; the program's own error text when it fails. */
async function finish(window, command) {
  const ended = new Promise(resolve =>
    window.gMsgCompose.RegisterStateListener({
      NotifyComposeFieldsReady() {},
      NotifyComposeBodyReady() {},
      SaveInFolderDone() {},
      ComposeProcessDone: resolve,
    })
  );
  window.goDoCommand(command);
  const status = await ended;
  if (!Components.isSuccessCode(status)) {
    throw new Error(`${command}: ${status.toString(16)}`);
  }
}

async function send(window) {
  await finish(window, "cmd_sendNow");
  await until(() => window.closed, "the end of the compose window");
}

globalThis.tb = {
  /** Answers the dialog of the first start: name, address, the password when it asks. Returns the steps it showed. */
  async setUp(name, address, password) {
    const hub = await until(
      () => document.querySelector("account-hub-container")?.modal.querySelector("account-hub-email"),
      "the account dialog"
    );
    const view = () => [...hub.querySelectorAll("[id$=Subview]")].find(one => !one.hidden);
    const type = (input, text) => {
      input.value = text;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    };
    const steps = [];
    for (;;) {
      const at = await until(() => !hub.classList.contains("busy") && view(), "the next step");
      steps.push(at.id.replace(/^email|Subview$/g, ""));
      if (at.id == "emailAutoConfigSubview") {
        await until(() => at.querySelector("#email"), "the form");
        type(at.querySelector("#realName"), name);
        type(at.querySelector("#email"), address);
      } else if (at.id == "emailPasswordSubview") {
        await until(() => at.querySelector("#password"), "the form");
        type(at.querySelector("#password"), password);
      } else if (!["emailConfigFoundSubview", "emailSyncAccountsSubview", "emailAddedSuccessSubview"].includes(at.id)) {
        throw new Error(`after ${steps}: ${noticeOf(at)}`);
      }
      const forward = await until(() => {
        const button = hub.querySelector("account-hub-footer #forward");
        return !button.disabled && button;
      }, () => `the way on from ${steps}: ${noticeOf(at)}`);
      forward.click();
      if (at.id == "emailAddedSuccessSubview") {
        break;
      }
      const next = () => view() != at && !hub.classList.contains("busy");
      await until(next, () => `what follows ${steps}: ${noticeOf(at)}`);
    }
    await until(() => !document.querySelector("account-hub-container").modal.open, "the end of the account dialog");
    await until(() => account() && folder("INBOX"), "INBOX");
    return steps;
  },

  /** The password as the prompts for it keep it, which a headless program cannot show. */
  async remember(password) {
    const { incomingServer: server, defaultIdentity: identity } = account();
    const out = MailServices.outgoingServer.getServerByIdentity(identity);
    server.password = password;
    out.password = password;
    server.performExpand(msgWindow);
    await until(() => folder("INBOX") && folder("Drafts"), "the folders");
  },

  /** Hosts, ports, names of the account as it was set up. */
  settings() {
    const { incomingServer: server, defaultIdentity: identity } = account();
    const out = MailServices.outgoingServer.getServerByIdentity(identity).QueryInterface(Ci.nsISmtpServer);
    return {
      imap: `${server.hostname}:${server.port}`,
      smtp: `${out.hostname}:${out.port}`,
      user: server.username,
      address: identity.email,
      idle: server.QueryInterface(Ci.nsIImapIncomingServer).useIdle,
    };
  },

  /** Ends the timer that looks for new mail: what is heard from now on, the server said by itself. */
  stopLooking() {
    account().incomingServer.doBiff = false;
  },

  show,

  /** Waits until a message of that subject is known in a folder, without asking for it. */
  async heard(name, subject) {
    await until(() => headed(name, subject).length, `a message in ${name}`);
  },

  /** Waits until a folder holds messages of these subjects and no others. */
  async holds(name, subjects) {
    const wanted = JSON.stringify(subjects.toSorted());
    const found = () => JSON.stringify(headers(name).map(subjectOf).sort());
    await settled(name, () => found() == wanted, () => `${wanted} in ${name}, which holds ${found()},`);
  },

  /** Waits until the message has a star. */
  async heardStar(name, subject) {
    await until(() => headed(name, subject).some(one => one.isFlagged), `a star in ${name}`);
  },

  /** Waits until there is no message of that subject any more. */
  async heardEnd(name, subject) {
    await until(() => !headed(name, subject).length, `a message's end in ${name}`);
  },

  /** What each folder is used for, by its name at the server. */
  async uses() {
    const all = { ...FOLDERS, Archive: flag.Archive };
    const found = {};
    for (const one of account().incomingServer.rootFolder.descendants) {
      const name = one.QueryInterface(Ci.nsIMsgImapMailFolder).onlineName;
      found[name] = Object.keys(all).find(use => one.flags & all[use]) || null;
    }
    return found;
  },

  /** A new message, from the first key to "Send". */
  async send(message) {
    const window = await newMessage();
    await write(window, message);
    await send(window);
  },

  /** "Reply" to a message of a folder; the quote stays as the program makes it. */
  async reply(name, subject, body) {
    await select(name, subject);
    await order("cmd_reply");
    const window = await composing();
    await until(() => window.gMsgCompose.compFields.references, "what is answered");
    await write(window, { body });
    await send(window);
  },

  /** Writes, saves as draft, closes the window. */
  async draft(message) {
    const window = await newMessage();
    await write(window, message);
    await finish(window, "cmd_saveAsDraft");
    window.close();
    await until(() => window.closed, "the end of the compose window");
  },

  /** Opens a draft again, writes more into it, sends it. Returns what stood in it. */
  async finishDraft(subject, body) {
    await select("Drafts", subject);
    await order("cmd_editDraftMsg");
    const window = await composing();
    const found = window.GetCurrentEditor().outputToString("text/plain", 0);
    await write(window, { body });
    await send(window);
    return found;
  },

  async star(name, subject) {
    await select(name, subject);
    await order("cmd_markAsFlagged");
    await until(() => headed(name, subject)[0].isFlagged, "the star");
  },

  async tag(name, subject, number) {
    await select(name, subject);
    await order(`cmd_tag${number}`);
  },

  async move(name, subject, target) {
    await select(name, subject);
    await order("cmd_moveMessage", await until(() => folder(target), `folder ${target}`));
    await until(() => !headed(name, subject).length, `the message's end in ${name}`);
  },

  async remove(name, subject) {
    await select(name, subject);
    await order("cmd_deleteMessage");
    await until(() => !headed(name, subject).length, `the message's end in ${name}`);
  },

  async emptyTrash() {
    const { promise, listener } = listening("emptying");
    folder("Trash").emptyTrash(listener);
    await promise;
  },

  /** "New Folder" at the top of the account. */
  async newFolder(name) {
    account().incomingServer.rootFolder.createSubfolder(name, msgWindow);
    await until(() => folder(name), `folder ${name}`);
  },

  /** "Search Messages" with "run search on server": subjects of what holds `word` in its body. */
  async search(name, word) {
    const session = Cc["@mozilla.org/messenger/searchSession;1"].createInstance(Ci.nsIMsgSearchSession);
    session.addScopeTerm(Ci.nsMsgSearchScope.onlineMail, folder(name));
    const term = session.createTerm();
    const value = term.value;
    term.attrib = value.attrib = Ci.nsMsgSearchAttrib.Body;
    term.op = Ci.nsMsgSearchOp.Contains;
    value.str = word;
    term.value = value;
    session.appendTerm(term);
    const hits = [];
    const { promise, done } = listening("search");
    const onSearchHit = header => hits.push(subjectOf(header));
    session.registerListener({ onSearchHit, onSearchDone: done, onNewSearch() {} });
    session.search(msgWindow);
    await promise;
    return hits;
  },
};
